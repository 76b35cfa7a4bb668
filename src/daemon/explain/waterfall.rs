//! The imports of checkpoints as a picture: a bar for each module, from left to right in time, below
//! what has imported it. It needs no script, no font and no network, and is legible on light and
//! dark grounds.

use std::fmt::Write as _;

use super::document::{Branch, Explanation, top_level};
use super::text::{plural, seconds};
use crate::protocol::{Load, LoadEnd};

/// Pixels.
const WIDTH: f64 = 1200.0;
const MARGIN: f64 = 16.0;
const ROW: f64 = 18.0;
const HEADING: f64 = 44.0;
const AXIS: f64 = 22.0;
const GAP: f64 = 26.0;
const TOP: f64 = 64.0;
/// Of a letter at 11 pixels, on average.
const LETTER: f64 = 6.3;
/// A bar too narrow for three letters has its name in its title only.
const NARROWEST_LABEL: f64 = 26.0;
/// What takes less would not be seen at all.
const NARROWEST_BAR: f64 = 0.4;

/// Marks on an axis.
const MARKS: f64 = 10.0;

const STYLE: &str = "\
.paper{fill:#fff}text{font:11px ui-sans-serif,system-ui,sans-serif;fill:#1a1a1a}\
.h{font-size:13px;font-weight:600}.t{font-size:16px;font-weight:600}.n{fill:#555}\
.g{stroke:#8884;stroke-width:1}.b text{fill:#111;pointer-events:none}\
.b rect{stroke:#0003;stroke-width:.5}.b.away rect{stroke:#111;stroke-dasharray:3 2}\
.b.failed rect{fill:#bbb;stroke:#c22;stroke-dasharray:3 2}.b.whole rect{fill:#ccc}\
.b:hover rect,.b:focus rect{stroke:#000;stroke-width:1.5}.b.dim{opacity:.2}\
@media(prefers-color-scheme:dark){.paper{fill:#16181c}text{fill:#e8e8e8}.n{fill:#aaa}\
.b:hover rect,.b:focus rect{stroke:#fff}}";

/// What is drawn.
pub(super) struct Waterfall<'a> {
    pub(super) project: String,
    panels: Vec<Panel<'a>>,
}

/// The build of one checkpoint.
struct Panel<'a> {
    heading: String,
    branch: &'a Branch,
}

impl<'a> Waterfall<'a> {
    pub(super) fn of(documents: &'a [Explanation]) -> Self {
        let mut panels = Vec::new();
        for document in documents {
            for tree in &document.roots {
                let several = documents.len() > 1 || document.roots.len() > 1;
                let root = if several {
                    format!(", root {}", tree.id)
                } else {
                    String::new()
                };
                for branch in &tree.checkpoints {
                    branch.each(&mut |branch| {
                        if branch.modules > 0 {
                            let shape = branch.shape.as_ref();
                            let shape = shape.map(|it| format!(", {it}")).unwrap_or_default();
                            panels.push(Panel {
                                heading: format!("{}{root}{shape}", branch.level),
                                branch,
                            });
                        }
                    });
                }
            }
        }
        let project = documents.first().map(|it| it.project.display().to_string());
        Self {
            project: project.unwrap_or_default(),
            panels,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.panels.is_empty()
    }

    pub(super) fn loads(&self) -> impl Iterator<Item = (&str, &'a Load)> {
        self.panels.iter().flat_map(|panel| {
            let loads = panel.branch.imports.loads.iter();
            loads.map(|load| (panel.branch.level.as_str(), load))
        })
    }

    pub(super) fn summary(&self) -> String {
        let left_out: usize = self
            .panels
            .iter()
            .map(|it| it.branch.imports.left_out)
            .sum();
        let rest = match left_out {
            0 => String::new(),
            rest => format!(" ({rest} cheaper ones are left out)"),
        };
        format!(
            "{}, {}{rest}",
            plural(self.panels.len(), "checkpoint"),
            plural(self.loads().count(), "import"),
        )
    }

    /// The whole picture.
    pub(super) fn svg(&self) -> String {
        // The same scale for all, so that they can be compared.
        let longest = self.panels.iter().map(Panel::span).fold(1e-3, f64::max);
        let scale = (WIDTH - 2.0 * MARGIN) / longest;
        let height = TOP + self.panels.iter().map(Panel::height).sum::<f64>();
        let mut out = String::new();
        let title = format!("Import waterfall of {}", self.project);
        // Writing to a `String` cannot fail.
        let _ = write!(
            out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
             width=\"{WIDTH}\" height=\"{height}\" role=\"img\" aria-labelledby=\"wt wd\">\n\
             <title id=\"wt\">{}</title>\n<desc id=\"wd\">{}. {}</desc>\n<style>{STYLE}</style>\n\
             <rect class=\"paper\" width=\"100%\" height=\"100%\"/>\n\
             <text class=\"t\" x=\"{MARGIN}\" y=\"28\">{}</text>\n\
             <text class=\"n\" x=\"{MARGIN}\" y=\"48\">{}</text>\n",
            escape(&title),
            escape(&self.summary()),
            LEGEND,
            escape(&title),
            LEGEND,
        );
        let mut y = TOP;
        for panel in &self.panels {
            panel.draw(&mut out, y, scale);
            y += panel.height();
        }
        out.push_str("</svg>\n");
        out
    }
}

const LEGEND: &str = "A bar is as long as the module took to be imported, with what it imported in \
                      turn below it; colours are packages; dashed: hidden or taken away again, \
                      grey: not found or raised";

impl Panel<'_> {
    /// Seconds.
    fn span(&self) -> f64 {
        let loads = self.branch.imports.loads.iter();
        let ends = loads.map(|it| (f64::from(it.start) + f64::from(it.took)) / 1e6);
        ends.fold(self.branch.build_seconds, f64::max)
    }

    fn rows(&self) -> usize {
        let loads = self.branch.imports.loads.iter();
        loads.map(|it| usize::from(it.depth) + 1).max().unwrap_or(1)
    }

    fn height(&self) -> f64 {
        HEADING + self.rows() as f64 * ROW + AXIS + GAP
    }

    fn draw(&self, out: &mut String, top: f64, scale: f64) {
        let Branch {
            imports,
            build_seconds,
            ..
        } = self.branch;
        let bottom = top + HEADING + self.rows() as f64 * ROW;
        let pid = self.branch.pid.map(|pid| format!(", pid {pid}"));
        let facts = match (imports.watched, imports.left_out) {
            (false, _) => "not measured module by module".to_owned(),
            (true, 0) => format!(
                "{}, {}",
                plural(imports.count, "import"),
                seconds(imports.seconds)
            ),
            (true, rest) => format!(
                "{}, {}; {rest} cheaper ones, {} without what they import, are left out",
                plural(imports.count, "import"),
                seconds(imports.seconds),
                seconds(imports.left_out_seconds),
            ),
        };
        let _ = write!(
            out,
            "<g class=\"panel\"><text class=\"h\" x=\"{MARGIN}\" y=\"{}\">{}{}</text>\n\
             <text class=\"n\" x=\"{MARGIN}\" y=\"{}\">built in {}, {facts}</text>\n",
            top + 13.0,
            escape(&self.heading),
            pid.unwrap_or_default(),
            top + 30.0,
            seconds(*build_seconds),
        );
        let step = step(self.span());
        let mut mark = 0.0;
        while mark <= self.span() {
            let x = MARGIN + mark * scale;
            let _ = writeln!(
                out,
                "<line class=\"g\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{}\" y2=\"{bottom}\"/>\
                 <text class=\"n m\" x=\"{x:.1}\" y=\"{}\">{:.0} ms</text>",
                top + HEADING - 4.0,
                bottom + 14.0,
                mark * 1e3,
            );
            mark += step;
        }
        if !imports.watched {
            let whole = Bar {
                label: &self.branch.holds,
                title: format!(
                    "{}: built in {}",
                    self.branch.holds,
                    seconds(*build_seconds)
                ),
                class: "b whole",
                fill: None,
                x: MARGIN,
                y: top + HEADING,
                width: build_seconds * scale,
                name: "",
            };
            whole.draw(out);
        }
        for load in &imports.loads {
            let bar = Bar {
                label: &load.name,
                title: title_of(load),
                class: match load.end {
                    LoadEnd::Held => "b",
                    LoadEnd::Away => "b away",
                    LoadEnd::Failed => "b failed",
                },
                fill: (load.end != LoadEnd::Failed).then(|| colour(&load.name)),
                x: MARGIN + f64::from(load.start) / 1e6 * scale,
                y: top + HEADING + f64::from(load.depth) * ROW,
                width: f64::from(load.took) / 1e6 * scale,
                name: &load.name,
            };
            bar.draw(out);
        }
        out.push_str("</g>\n");
    }
}

/// What is read on a bar's title.
fn title_of(load: &Load) -> String {
    let end = match load.end {
        LoadEnd::Held => "",
        LoadEnd::Away => "; hidden or taken away again",
        LoadEnd::Failed => "; not found, or it raised",
    };
    let ms = |micros: u32| f64::from(micros) / 1e3;
    format!(
        "{}: {:.2} ms, {:.2} ms of it its own, after {:.1} ms{end}",
        load.name,
        ms(load.took),
        ms(load.own),
        ms(load.start),
    )
}

struct Bar<'a> {
    label: &'a str,
    title: String,
    class: &'a str,
    fill: Option<String>,
    x: f64,
    y: f64,
    width: f64,
    /// The module, for tools and the search.
    name: &'a str,
}

impl Bar<'_> {
    fn draw(&self, out: &mut String) {
        let name = match self.name {
            "" => String::new(),
            name => format!(" data-module=\"{}\"", escape(name)),
        };
        let fill = self.fill.as_ref();
        let fill = fill.map(|it| format!(" fill=\"{it}\"")).unwrap_or_default();
        let _ = write!(
            out,
            "<g class=\"{}\"{name}><title>{}</title>\
             <rect x=\"{:.2}\" y=\"{:.1}\" width=\"{:.2}\" height=\"{}\" rx=\"2\"{fill}/>",
            self.class,
            escape(&self.title),
            self.x,
            self.y,
            self.width.max(NARROWEST_BAR),
            ROW - 2.0,
        );
        if let Some(label) = shortened(self.label, self.width) {
            let _ = write!(
                out,
                "<text x=\"{:.2}\" y=\"{:.1}\">{}</text>",
                self.x + 3.0,
                self.y + 12.0,
                escape(&label),
            );
        }
        out.push_str("</g>\n");
    }
}

/// As much of a label as a bar of this width has room for.
fn shortened(label: &str, width: f64) -> Option<String> {
    if width < NARROWEST_LABEL {
        return None;
    }
    let room = ((width - 6.0) / LETTER) as usize;
    if label.chars().count() <= room {
        return Some(label.to_owned());
    }
    let start: String = label.chars().take(room.saturating_sub(1)).collect();
    Some(format!("{start}…"))
}

/// The same for all modules of a package, light enough for dark letters on it.
pub(super) fn colour(name: &str) -> String {
    // FNV-1a: any hash would do that spreads similar names and is the same tomorrow.
    let hash = top_level(name)
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    let hue = (hash >> 16) % 360;
    let saturation = 45 + (hash >> 32) % 30;
    let lightness = 68 + (hash >> 40) % 12;
    format!("hsl({hue},{saturation}%,{lightness}%)")
}

/// Seconds between two marks.
fn step(span: f64) -> f64 {
    let raw = span / MARKS;
    let power = 10f64.powf(raw.log10().floor()).max(1e-3);
    let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    steps
        .into_iter()
        .find(|it| *it >= raw)
        .unwrap_or(power * 10.0)
}

/// For text and attributes. What XML cannot hold is replaced.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\u{0}'..='\u{8}'
            | '\u{b}'
            | '\u{c}'
            | '\u{e}'..='\u{1f}'
            | '\u{fffe}'
            | '\u{ffff}' => {
                out.push('\u{fffd}');
            }
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_of_a_package_have_its_colour() {
        assert_eq!(colour("numpy.core.multiarray"), colour("numpy"));
        assert_ne!(colour("numpy"), colour("pandas"));
    }

    #[test]
    fn marks_are_round_and_few() {
        for (span, expected) in [(0.95, 0.1), (0.3, 0.05), (0.012, 0.002), (7.0, 1.0)] {
            assert!(
                (step(span) - expected).abs() < 1e-9,
                "{span}: {}",
                step(span)
            );
        }
        assert!(step(1e-6) >= 1e-3);
    }

    #[test]
    fn labels_fit_their_bars() {
        assert_eq!(shortened("numpy", 200.0).as_deref(), Some("numpy"));
        let short = shortened("numpy.core.multiarray", 60.0).unwrap();
        assert!(
            short.ends_with('…') && short.chars().count() < 10,
            "{short}"
        );
        assert_eq!(shortened("numpy", 10.0), None);
    }

    #[test]
    fn nothing_in_a_name_is_markup() {
        assert_eq!(
            escape("<a & \"b\">\u{1}"),
            "&lt;a &amp; &quot;b&quot;&gt;\u{fffd}"
        );
    }
}
