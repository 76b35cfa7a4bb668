//! What the profile function looks at closer, told from all else by addresses alone.
//!
//! It is called before and after each call of a function, a million times while a large package is
//! imported; a handful of these matter. (A Z2 of a conftest that imports pandas, Python 3.11, two
//! interleaved builds of each: 0.99 and 0.86 s with each event handed to a function of ours through
//! Python's own interface, 0.73 and 0.68 s with this.)
//!
//! An address may be held for that of something watched and be not; never the other way round.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// Codes of Python functions: the import system's and pytest's own.
static CODES: [AtomicUsize; 8] = [const { AtomicUsize::new(0) }; 8];

/// There are more, so each is looked at.
static ALL: AtomicBool = AtomicBool::new(false);

/// A bit for each address of a C function. Of forty functions one in a hundred others is looked at
/// for nothing.
static FUNCTIONS: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];

/// Has calls of the function with the code at this address looked at.
pub(crate) fn watch_code(address: usize) {
    for known in &CODES {
        let now = known.load(Ordering::Relaxed);
        if now == 0 {
            known.store(address, Ordering::Relaxed);
        }
        if now == 0 || now == address {
            return;
        }
    }
    ALL.store(true, Ordering::Relaxed);
}

pub(crate) fn is_watched_code(address: usize) -> bool {
    let is_it = |known: &AtomicUsize| known.load(Ordering::Relaxed) == address;
    CODES.iter().any(is_it) || ALL.load(Ordering::Relaxed)
}

/// Has calls of the C function at this address looked at.
pub(crate) fn watch_function(address: usize) {
    let (word, bit) = place(address);
    FUNCTIONS[word].fetch_or(bit, Ordering::Relaxed);
}

pub(crate) fn may_be_watched_function(address: usize) -> bool {
    let (word, bit) = place(address);
    FUNCTIONS[word].load(Ordering::Relaxed) & bit != 0
}

fn place(address: usize) -> (usize, u64) {
    // Functions begin at multiples of 16; the multiplication spreads what is left.
    let spread = (address as u64 >> 4).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 52;
    ((spread >> 6) as usize, 1 << (spread & 63))
}
