//! Reading a cpio archive in the `newc` format (the Linux kernel's
//! Documentation/driver-api/early-userspace/buffer-format.rst).

/// One member of an archive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member<'a> {
    /// Path as archived.
    pub name: &'a str,
    /// Contents.
    pub data: &'a [u8],
}

/// The members of an archive, in order. Iteration ends at the trailer, or at
/// the first thing that is not a member: a truncated archive loses its rest.
pub struct Members<'a> {
    rest: &'a [u8],
}

/// Reads `archive`.
pub const fn members(archive: &[u8]) -> Members<'_> {
    Members { rest: archive }
}

/// The contents of the member called `name`.
pub fn find<'a>(archive: &'a [u8], name: &str) -> Option<&'a [u8]> {
    members(archive).find(|member| member.name == name).map(|member| member.data)
}

const HEADER: usize = 110;

fn field(header: &[u8], index: usize) -> Option<usize> {
    let digits = header.get(6 + 8 * index..14 + 8 * index)?;
    usize::from_str_radix(core::str::from_utf8(digits).ok()?, 16).ok()
}

impl<'a> Iterator for Members<'a> {
    type Item = Member<'a>;

    fn next(&mut self) -> Option<Member<'a>> {
        let header = self.rest.get(..HEADER)?;
        if !matches!(header.get(..6)?, b"070701" | b"070702") {
            return None;
        }
        let (size, name_size) = (field(header, 6)?, field(header, 11)?);
        let name = self.rest.get(HEADER..HEADER.checked_add(name_size.checked_sub(1)?)?)?;
        let name = core::str::from_utf8(name).ok()?;
        // Header with name, and contents, are each padded to four bytes.
        let start = (HEADER + name_size).next_multiple_of(4);
        let data = self.rest.get(start..start.checked_add(size)?)?;
        let end = (start + size).next_multiple_of(4);
        self.rest = self.rest.get(end..).unwrap_or_default();
        if name == "TRAILER!!!" { None } else { Some(Member { name, data }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;
    use std::vec::Vec;

    fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, data) in members.iter().chain([&("TRAILER!!!", &b""[..])]) {
            let mut fields = [0usize; 13];
            (fields[6], fields[11]) = (data.len(), name.len() + 1);
            bytes.extend(b"070701");
            fields.iter().for_each(|field| bytes.extend(format!("{field:08x}").bytes()));
            bytes.extend(name.bytes().chain([0]));
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes.extend(*data);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    #[test]
    fn members_come_back_as_they_were_packed() {
        let archive = archive(&[("guest.img", b"12345"), ("disk.img", b""), ("x", b"abcd")]);
        assert_eq!(find(&archive, "guest.img"), Some(&b"12345"[..]));
        assert_eq!(find(&archive, "disk.img"), Some(&b""[..]));
        assert_eq!(find(&archive, "x"), Some(&b"abcd"[..]));
        assert_eq!(find(&archive, "y"), None);
        assert_eq!(members(&archive).count(), 3);
    }

    #[test]
    fn a_truncated_or_foreign_archive_has_no_more_members_and_does_no_harm() {
        let archive = archive(&[("a", b"1234"), ("b", b"5678")]);
        for length in 0..archive.len() {
            assert!(members(&archive[..length]).count() <= 2);
        }
        assert_eq!(members(b"not an archive").count(), 0);
        let mut huge = archive.clone();
        huge[6 + 8 * 6..14 + 8 * 6].copy_from_slice(b"ffffffff");
        assert_eq!(members(&huge).count(), 0);
        let mut unnamed = archive;
        unnamed[6 + 8 * 11..14 + 8 * 11].copy_from_slice(b"00000000");
        assert_eq!(members(&unnamed).count(), 0);
    }
}
