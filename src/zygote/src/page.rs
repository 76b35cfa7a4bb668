//! A few pages of memory that a worker shares with its zygote.
//!
//! They carry what the zygote wants to know of a run (why it refused, how it left, what it
//! imported) without a descriptor in the worker, which a test could see, and without a message at
//! its end, which a killed worker could not send.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use pyseidon::protocol::Ahead;

/// 1 MiB holds some 25,000 module names; pages that are not written cost nothing.
const SIZE: usize = 1 << 20;
const REASON: usize = 1024;
/// At the end of it, a bit for each page of a zygote of up to 2 GiB.
const OWN_PAGES: usize = 64 << 10;
/// Where the names of modules end.
const IMPORTS_END: usize = SIZE - OWN_PAGES;

#[repr(C)]
struct Header {
    refused: AtomicU32,
    entered: AtomicU32,
    exit: AtomicU32,
    reason_size: AtomicU32,
    inherited_at: AtomicU64,
    done_at: AtomicU64,
    imports_size: AtomicU32,
    /// 0: nothing, 1: adopted, 2: not, for the reason.
    ahead: AtomicU32,
    taught: AtomicU32,
    reason: [u8; REASON],
}

/// The shared memory of one run.
pub(crate) struct Page(NonNull<Header>);

// SAFETY: the memory is shared between processes anyway; scalars in it are atomic, byte areas are
// written by the worker alone and read by the zygote after the worker's end.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

impl Page {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: an anonymous mapping at an address of the kernel's choice.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(
            NonNull::new(at.cast()).expect("mmap gives no null pointer"),
        ))
    }

    fn header(&self) -> &Header {
        // SAFETY: the mapping lives as long as `self` and zeroed memory is a valid header.
        unsafe { self.0.as_ref() }
    }

    /// Another handle on the same memory, for the child. The child never unmaps it.
    pub(crate) fn share(&self) -> std::mem::ManuallyDrop<Self> {
        std::mem::ManuallyDrop::new(Self(self.0))
    }

    fn set_reason(&self, reason: &str) {
        let bytes = &reason.as_bytes()[..reason.len().min(REASON)];
        // SAFETY: the area belongs to this header, and only the worker writes it.
        unsafe {
            let area = (&raw mut (*self.0.as_ptr()).reason).cast::<u8>();
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), area, bytes.len());
        }
        let header = self.header();
        header
            .reason_size
            .store(bytes.len() as u32, Ordering::Relaxed);
    }

    fn reason(&self) -> String {
        let header = self.header();
        let size = header.reason_size.load(Ordering::Relaxed) as usize;
        String::from_utf8_lossy(&header.reason[..size.min(REASON)]).into_owned()
    }

    pub(crate) fn refuse(&self, reason: &str) {
        self.set_reason(reason);
        self.header().refused.store(1, Ordering::Release);
    }

    pub(crate) fn refused(&self) -> Option<String> {
        (self.header().refused.load(Ordering::Acquire) == 1).then(|| self.reason())
    }

    /// It is not the checkpoint that does not stand for runs like this one.
    pub(crate) fn refuse_for_now(&self, reason: &str) {
        self.set_reason(reason);
        self.header().refused.store(2, Ordering::Release);
    }

    pub(crate) fn refused_for_now(&self) -> Option<String> {
        (self.header().refused.load(Ordering::Acquire) == 2).then(|| self.reason())
    }

    /// What became of an import that was made ahead: adopted, or the reason why not.
    pub(crate) fn set_ahead(&self, reason: &str) {
        self.set_reason(reason);
        let what = if reason.is_empty() { 1 } else { 2 };
        self.header().ahead.store(what, Ordering::Release);
    }

    pub(crate) fn ahead(&self) -> Ahead {
        match self.header().ahead.load(Ordering::Acquire) {
            0 => Ahead::Nothing,
            1 => Ahead::Adopted,
            _ => Ahead::Natural(self.reason()),
        }
    }

    pub(crate) fn enter(&self) {
        self.header().entered.store(1, Ordering::Release);
    }

    pub(crate) fn entered(&self) -> bool {
        self.header().entered.load(Ordering::Acquire) == 1
    }

    /// The worker is the caller's process; what follows is pytest's own work, beginning with its
    /// reading of the arguments.
    pub(crate) fn inherited(&self) {
        self.header().inherited_at.store(now(), Ordering::Relaxed);
    }

    pub(crate) fn inherited_at(&self) -> u64 {
        self.header().inherited_at.load(Ordering::Relaxed)
    }

    /// The script is done; what follows is the interpreter's own end.
    pub(crate) fn done(&self) {
        self.header().done_at.store(now(), Ordering::Relaxed);
    }

    pub(crate) fn done_at(&self) -> u64 {
        self.header().done_at.load(Ordering::Relaxed)
    }

    /// 1: short, 2: full (see `pyseidon::protocol::ExitPath`).
    pub(crate) fn set_exit(&self, path: u32) {
        self.header().exit.store(path, Ordering::Relaxed);
    }

    pub(crate) fn exit(&self) -> u32 {
        self.header().exit.load(Ordering::Relaxed)
    }

    /// The bits of the pages that became the worker's own: see `touched.rs`.
    pub(crate) fn own_pages(&self) -> &[AtomicU64] {
        // SAFETY: the area lies in the mapping, aligned as its size and the mapping's are.
        unsafe {
            let area = self.0.as_ptr().cast::<u8>().add(IMPORTS_END);
            std::slice::from_raw_parts(area.cast(), OWN_PAGES / size_of::<AtomicU64>())
        }
    }

    /// All those bits are set that are to be.
    pub(crate) fn taught(&self) {
        self.header().taught.store(1, Ordering::Release);
    }

    pub(crate) fn has_taught(&self) -> bool {
        self.header().taught.load(Ordering::Acquire) == 1
    }

    /// Adds the name of an imported module. What does not fit is left out: the list is only
    /// learned from.
    pub(crate) fn import(&self, name: &[u8]) {
        let header = self.header();
        let start = size_of::<Header>() + header.imports_size.load(Ordering::Relaxed) as usize;
        let end = start + name.len() + 1;
        if end > IMPORTS_END {
            return;
        }
        // SAFETY: start..end lies inside the mapping, behind the header.
        unsafe {
            let area = self.0.as_ptr().cast::<u8>().add(start);
            std::ptr::copy_nonoverlapping(name.as_ptr(), area, name.len());
            area.add(name.len()).write(b'\n');
        }
        header
            .imports_size
            .store((end - size_of::<Header>()) as u32, Ordering::Release);
    }

    pub(crate) fn imports(&self) -> Vec<String> {
        let size = self.header().imports_size.load(Ordering::Acquire) as usize;
        // SAFETY: `import` has written this many bytes behind the header.
        let bytes = unsafe {
            std::slice::from_raw_parts(
                self.0.as_ptr().cast::<u8>().add(size_of::<Header>()),
                size.min(IMPORTS_END - size_of::<Header>()),
            )
        };
        String::from_utf8_lossy(bytes)
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this size, and no other handle of this process is used.
        unsafe { libc::munmap(self.0.as_ptr().cast(), SIZE) };
    }
}

/// Nanoseconds of the monotonic clock, the same in all processes.
pub(crate) fn now() -> u64 {
    let mut at = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes into a valid timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut at) };
    at.tv_sec as u64 * 1_000_000_000 + at.tv_nsec as u64
}
