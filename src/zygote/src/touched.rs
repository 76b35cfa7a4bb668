//! The pages that runs write to, copied for the next one while it waits for its run.
//!
//! After a fork all memory is shared, and the first write to each page traps and copies it. A
//! small run spends a quarter of its time on that: one test without dependencies took 41 ms with
//! those traps and 33 ms without. Which pages those are is learned from the first runs of a
//! checkpoint: what the kernel then has for the worker alone. A copy made ahead holds the same
//! bytes, so no run can tell.
//!
//! A kernel that does not know `MADV_POPULATE_WRITE` (before Linux 5.14) copies nothing.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use crate::page::Page;

/// Runs that are to teach, which costs each of them 0.6 to 1.7 ms. Those after the first find less
/// than one page in a hundred more, unless something else is selected.
const LESSONS: u32 = 3;

/// At most so many pages are copied ahead, 32 MiB, at 2 µs each: a run without dependencies writes
/// to 3,700, one with 17 plugins to 8,000.
const MOST: u32 = 8192;

/// So much is copied before it is asked again whether the run has come: 0.5 ms.
const PORTION: usize = 256;

/// Of memory that was reserved in larger pieces than 1 GiB little is in use, as a rule; and the
/// kernel's table of it has 2 MiB for each GiB.
const LARGEST: usize = 1 << 18;

/// Of each page, an entry of eight bytes (the kernel's `admin-guide/mm/pagemap.rst`).
const ENTRY: usize = 8;
const PRESENT: u64 = 1 << 63;
const MAPPED_ONCE: u64 = 1 << 56;

/// Pages that were there when this process parked, of memory that it may write to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    /// Address over page size.
    first: usize,
    count: usize,
}

/// What a zygote knows of its workers' writes.
pub(crate) struct Touched {
    /// Leaked: workers read it until they end.
    spans: &'static [Span],
    /// A bit for each page of `spans`, in their order.
    pages: Vec<u64>,
    lessons: u32,
}

/// Has a worker write down which pages have become its own.
#[derive(Clone, Copy)]
pub(crate) struct Lesson(&'static [Span]);

impl Touched {
    /// Looks at the memory of this process.
    pub(crate) fn new() -> Self {
        let spans = spans().unwrap_or_default();
        let count: usize = spans.iter().map(|span| span.count).sum();
        Self {
            spans: spans.leak(),
            pages: vec![0; count.div_ceil(64)],
            lessons: LESSONS,
        }
    }

    /// For the next worker, if it is to teach.
    pub(crate) fn lesson(&mut self) -> Option<Lesson> {
        self.lessons = self.lessons.checked_sub(1)?;
        Some(Lesson(self.spans))
    }

    /// Takes in what a worker wrote down.
    pub(crate) fn learn(&mut self, page: &Page) {
        if !page.has_taught() {
            return;
        }
        let mut count: u32 = self.pages.iter().map(|word| word.count_ones()).sum();
        for (known, found) in self.pages.iter_mut().zip(page.own_pages()) {
            let new = found.load(Ordering::Relaxed) & !*known;
            count += new.count_ones();
            if count > MOST {
                break;
            }
            *known |= new;
        }
    }

    /// In a standby: makes the known pages its own, as long as nobody waits for it.
    pub(crate) fn copy_ahead(&self, is_awaited: impl Fn() -> bool) {
        let size = page_size();
        let mut since = 0;
        for stretch in stretches(self.spans, &self.pages) {
            let mut first = stretch.first;
            let end = first + stretch.count;
            while first < end {
                if since >= PORTION {
                    if is_awaited() {
                        return;
                    }
                    since = 0;
                }
                let count = (end - first).min(PORTION);
                // SAFETY: fills page tables; the content of the memory stays as it is. What is not
                // mapped any more is an error that is ignored.
                unsafe {
                    libc::madvise(
                        (first * size) as *mut libc::c_void,
                        count * size,
                        libc::MADV_POPULATE_WRITE,
                    );
                }
                first += count;
                since += count;
            }
        }
    }
}

impl Lesson {
    /// In a worker, at its end. Allocates nothing: there may be no memory left.
    pub(crate) fn write_down(self, page: &Page) {
        let Ok(map) = File::open("/proc/self/pagemap") else {
            return;
        };
        let own = page.own_pages();
        let mut at = 0;
        for span in self.0 {
            let read = each_entry(&map, *span, |entry| {
                if entry & (PRESENT | MAPPED_ONCE) == PRESENT | MAPPED_ONCE
                    && let Some(word) = own.get(at / 64)
                {
                    word.fetch_or(1 << (at % 64), Ordering::Relaxed);
                }
                at += 1;
            });
            if read.is_err() {
                return;
            }
        }
        page.taught();
    }
}

/// Pages of this process that are there and may be written to.
fn spans() -> std::io::Result<Vec<Span>> {
    let size = page_size();
    let map = File::open("/proc/self/pagemap")?;
    let mut found = Vec::new();
    for line in std::fs::read_to_string("/proc/self/maps")?.lines() {
        let mut words = line.split_whitespace();
        let (Some(range), Some("rw-p")) = (words.next(), words.next()) else {
            continue;
        };
        let Some((from, to)) = range.split_once('-') else {
            continue;
        };
        let number = |text| usize::from_str_radix(text, 16).unwrap_or_default() / size;
        let (from, to) = (number(from), number(to));
        let whole = Span {
            first: from,
            count: to - from,
        };
        if whole.count > LARGEST {
            continue;
        }
        let mut page = from;
        each_entry(&map, whole, |entry| {
            if entry & PRESENT != 0 {
                add(&mut found, page);
            }
            page += 1;
        })?;
    }
    Ok(found)
}

/// Gives the kernel's entry for each page of a span.
fn each_entry(map: &File, span: Span, mut take: impl FnMut(u64)) -> std::io::Result<()> {
    let mut buffer = [0; 4096 * ENTRY];
    let mut left = span;
    while left.count > 0 {
        let count = left.count.min(buffer.len() / ENTRY);
        let bytes = &mut buffer[..count * ENTRY];
        map.read_exact_at(bytes, (left.first * ENTRY) as u64)?;
        for entry in bytes.chunks_exact(ENTRY) {
            take(u64::from_ne_bytes(entry.try_into().expect("of that size")));
        }
        left.first += count;
        left.count -= count;
    }
    Ok(())
}

/// Neighbouring pages of `spans` whose bits are set.
fn stretches(spans: &[Span], bits: &[u64]) -> Vec<Span> {
    let mut found = Vec::new();
    let pages = spans
        .iter()
        .flat_map(|span| span.first..span.first + span.count);
    for (at, page) in pages.enumerate() {
        if bits[at / 64] >> (at % 64) & 1 == 1 {
            add(&mut found, page);
        }
    }
    found
}

/// Adds a page beyond all that are in `spans`.
fn add(spans: &mut Vec<Span>, page: usize) {
    match spans.last_mut() {
        Some(last) if last.first + last.count == page => last.count += 1,
        _ => spans.push(Span {
            first: page,
            count: 1,
        }),
    }
}

fn page_size() -> usize {
    // SAFETY: asks for a constant of the system.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}
