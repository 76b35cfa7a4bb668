//! Whether the kernel learns of all that changes in a directory.

use std::path::Path;

use nix::sys::statfs::statfs;

/// Where the files of a directory are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Home {
    /// In this kernel's care: nothing changes without it.
    Here,
    /// Or it may be: somebody else may change them, and this kernel is not told.
    Elsewhere,
}

/// Those that this kernel alone changes, by the numbers of `linux/magic.h` and of the file
/// systems' own sources. Whatever is not known is looked at again and again: NFS, SMB, 9p, Ceph,
/// Lustre, the shared folders of virtual machines, and FUSE (`sshfs`, virtiofs, the directories
/// that containers share with a desktop).
///
/// An overlay is here: its layers are not to be changed from below while it is mounted.
const HERE: [u32; 31] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0xca45_1a4e, // bcachefs
    0x2fc1_2fc1, // zfs
    0xf2f5_2010, // f2fs
    0x3153_464a, // jfs
    0x5265_4973, // reiserfs
    0x3434,      // nilfs
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
    0x9584_58f6, // hugetlbfs
    0x794c_7630, // overlayfs
    0x6175_6673, // aufs
    0xf15f,      // ecryptfs
    0x7371_7368, // squashfs
    0xe0f5_e1e2, // erofs
    0x28cd_3d45, // cramfs
    0x7275,      // romfs
    0x9660,      // iso9660
    0x1501_3346, // udf
    0x4d44,      // fat
    0x2011_bab0, // exfat
    0x7366_746e, // ntfs3
    0x4244,      // hfs
    0x482b,      // hfs+
    0x2405_1905, // ubifs
    0x72b6,      // jffs2
    0x137f,      // minix
    0x2468,      // minix 2
    0x4d5a,      // minix 3
];

pub(super) fn home_of(directory: &Path) -> Home {
    match statfs(directory) {
        // The number has 32 bits, whatever type it is in.
        Ok(found) if HERE.contains(&(found.filesystem_type().0 as u32)) => Home::Here,
        _ => Home::Elsewhere,
    }
}
