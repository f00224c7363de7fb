//! B2: a host that starts another guest than its owner measured.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use rt::println;

use super::{Stage, payload};
use crate::payload::report::{Finding, GOOD};
use crate::payload::run::FREE;
use crate::payload::vm::{Plan, Vm};

impl Stage<'_> {
    /// Four guests that never run: the image as its owner has it, twice; with
    /// one bit of one byte changed; and with another command line. Each is
    /// measured by bouncer, and by this host from what it gave. Expected: the
    /// first two are the same guest, the others are not.
    pub(super) fn measured(&mut self) {
        println!("host: changes a byte of a guest's image before it is measured");
        let mut changed = Vec::from(self.image);
        if let Some(byte) = changed.last_mut() {
            *byte ^= 1;
        }
        let image = self.image;
        let digests = [(image, "a"), (image, "a"), (changed.as_slice(), "a"), (image, "b")]
            .map(|(image, words)| self.digest(image, words));
        let [Some(first), Some(again), Some(byte), Some(words)] = digests else {
            return self.fail("a measurement is not that of what the guest was given");
        };
        self.report(judge("B2.same", "measure the same guest again", first, again, true));
        self.report(judge("B2.byte", "change one bit of the image", first, byte, false));
        self.report(judge("B2.words", "change the command line", first, words, false));
    }

    /// What bouncer measures of such a guest, if that is what the host gave.
    fn digest(&mut self, image: &[u8], words: &str) -> Option<[u8; 32]> {
        let plan = Plan { bootargs: String::from(words), ..payload(image) };
        let vm = Vm::build(&FREE, plan).ok()?;
        let digest = vm.measurement();
        self.bury(vm)?;
        digest
    }
}

fn judge(
    id: &'static str,
    what: &str,
    owners: [u8; 32],
    measured: [u8; 32],
    same: bool,
) -> Finding {
    let start = |digest: [u8; 32]| -> String {
        digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
    };
    let detail = format!("{}... is measured as {}...", start(owners), start(measured));
    let outcome = if (owners == measured) == same { GOOD } else { "not-told" };
    Finding { id, what: what.into(), outcome, detail }
}
