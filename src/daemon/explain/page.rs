//! The picture in a page: zoom, search and a table, all in the one file.

use std::cmp::Reverse;
use std::fmt::Write as _;

use super::waterfall::{Waterfall, escape};
use crate::protocol::Load;

/// Rows of the table: what is worth looking at.
const ROWS: usize = 50;

const STYLE: &str = "\
:root{color-scheme:light dark}body{font:14px ui-sans-serif,system-ui,sans-serif;margin:1rem;\
background:#fff;color:#1a1a1a}svg{max-width:100%;height:auto;display:block}.b{cursor:zoom-in}\
.bar{display:flex;gap:1rem;align-items:center;flex-wrap:wrap;margin-bottom:.5rem}\
table{border-collapse:collapse}td,th{padding:.1rem .8rem .1rem 0;text-align:left}\
td.ms{text-align:right;font-variant-numeric:tabular-nums}summary{cursor:pointer;margin:1rem 0}\
@media(prefers-color-scheme:dark){body{background:#16181c;color:#e8e8e8}}";

/// Bars move and grow; what is outside is hidden. Without a script the page shows the picture.
const SCRIPT: &str = r##"
"use strict";
const svg = document.querySelector("svg"), left = 16, right = 1184, letter = 6.3;
const bars = [...svg.querySelectorAll(".b")].map(group => {
  const rect = group.querySelector("rect"), name = group.dataset.module || "";
  return {group, rect, name, x: +rect.getAttribute("x"), width: +rect.getAttribute("width")};
});
const marks = [...svg.querySelectorAll("line.g, text.m")].map(mark => {
  const at = mark.hasAttribute("x1") ? ["x1", "x2"] : ["x"];
  return {mark, at, x: +mark.getAttribute(at[0])};
});
function show(from, to) {
  const scale = (right - left) / (to - from), place = x => left + (x - from) * scale;
  for (const bar of bars) {
    const begin = Math.max(place(bar.x), left), end = Math.min(place(bar.x + bar.width), right);
    bar.group.style.display = end < begin ? "none" : "";
    if (end < begin) continue;
    bar.rect.setAttribute("x", begin);
    bar.rect.setAttribute("width", Math.max(end - begin, 0.4));
    let text = bar.group.querySelector("text");
    const full = bar.name || (text && (text.dataset.full ||= text.textContent)) || "";
    const room = Math.floor((end - begin - 6) / letter);
    if (!text && room >= 3 && full) {
      text = document.createElementNS(svg.namespaceURI, "text");
      text.setAttribute("y", +bar.rect.getAttribute("y") + 12);
      bar.group.append(text);
    }
    if (text) {
      text.setAttribute("x", begin + 3);
      text.textContent = room < 3 ? "" : full.length <= room ? full : full.slice(0, room - 1) + "…";
    }
  }
  for (const {mark, at, x} of marks) {
    const now = place(x);
    mark.style.display = now < left - 1 || now > right + 1 ? "none" : "";
    for (const name of at) mark.setAttribute(name, now);
  }
}
const whole = () => show(left, right);
svg.addEventListener("click", event => {
  const group = event.target.closest(".b"), bar = bars.find(bar => bar.group === group);
  if (bar) show(bar.x, bar.x + Math.max(bar.width, 0.4)); else whole();
});
document.querySelector("#whole").addEventListener("click", whole);
document.addEventListener("keydown", event => { if (event.key === "Escape") whole(); });
const found = document.querySelector("#found");
document.querySelector("#search").addEventListener("input", event => {
  const word = event.target.value.trim().toLowerCase();
  let count = 0;
  for (const bar of bars) {
    const is = !word || bar.name.toLowerCase().includes(word);
    bar.group.classList.toggle("dim", !is);
    count += word && is ? 1 : 0;
  }
  found.textContent = word ? `${count} found` : "";
});
"##;

pub(super) fn html(waterfall: &Waterfall<'_>) -> String {
    let mut out = String::new();
    let project = escape(&waterfall.project);
    // Writing to a `String` cannot fail.
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>Import waterfall of {project}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <div class=\"bar\"><label>Search <input id=\"search\" type=\"search\"></label>\n\
         <button id=\"whole\" type=\"button\">Show everything</button>\n\
         <span id=\"found\" role=\"status\"></span>\n\
         <span>Click a bar to zoom in, Escape to zoom out.</span></div>\n{}",
        waterfall.svg(),
    );
    let mut loads: Vec<(&str, &Load)> = waterfall.loads().collect();
    loads.sort_by_key(|(_, load)| Reverse(load.own));
    loads.truncate(ROWS);
    let _ = write!(
        out,
        "<details><summary>The {} most expensive modules, by what they took themselves</summary>\n\
         <table>\n<tr><th>module</th><th>checkpoint</th><th>own ms</th><th>ms</th></tr>\n",
        loads.len(),
    );
    for (level, load) in loads {
        let ms = |micros: u32| f64::from(micros) / 1e3;
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td>{level}</td><td class=\"ms\">{:.2}</td>\
             <td class=\"ms\">{:.2}</td></tr>",
            escape(&load.name),
            ms(load.own),
            ms(load.took),
        );
    }
    let _ = write!(
        out,
        "</table></details>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    );
    out
}
