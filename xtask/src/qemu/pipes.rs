//! What comes out of a running QEMU: its console and its monitor's answers.

use std::io::BufRead;
use std::sync::mpsc::Sender;

use serde_json::Value;

/// Longest console line kept; a guest that never ends a line gets cut here.
const LONGEST_LINE: usize = 4096;

/// What a reader of QEMU's output passes on.
pub(super) enum Message {
    /// From the console: a line without its end, or bytes as they came.
    Said(Vec<u8>),
    Monitor(Value),
    ConsoleClosed,
    MonitorClosed,
}

/// The console for a person who types: nothing waits for the end of a line.
pub(super) fn read_bytes(from: &mut dyn BufRead, to: &Sender<Message>) {
    while let Ok(chunk) = from.fill_buf() {
        let chunk = chunk.to_vec();
        if chunk.is_empty() {
            break;
        }
        from.consume(chunk.len());
        drop(to.send(Message::Said(chunk)));
    }
    drop(to.send(Message::ConsoleClosed));
}

pub(super) fn read_lines(from: &mut dyn BufRead, to: &Sender<Message>) {
    let mut line = Vec::new();
    loop {
        let chunk = match from.fill_buf() {
            Ok([]) | Err(_) => break,
            Ok(chunk) => chunk,
        };
        let used = chunk.len();
        for &byte in chunk {
            if byte != b'\n' {
                line.push(byte);
            }
            if byte == b'\n' || line.len() == LONGEST_LINE {
                // Nobody listens any more: read on, or QEMU would block.
                drop(to.send(Message::Said(std::mem::take(&mut line))));
            }
        }
        from.consume(used);
    }
    if !line.is_empty() {
        drop(to.send(Message::Said(line)));
    }
    drop(to.send(Message::ConsoleClosed));
}

pub(super) fn read_monitor(from: impl BufRead, to: &Sender<Message>) {
    for line in from.lines().map_while(Result::ok) {
        if let Ok(message) = serde_json::from_str(&line) {
            drop(to.send(Message::Monitor(message)));
        }
    }
    drop(to.send(Message::MonitorClosed));
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::console::printable;

    #[test]
    fn somebody_at_the_console_gets_the_bytes_as_they_come() {
        let (sender, receiver) = channel();
        read_bytes(&mut b"no line\x1b[0m".as_slice(), &sender);
        drop(sender);
        let bytes: Vec<u8> = receiver
            .iter()
            .flat_map(|message| match message {
                Message::Said(bytes) => bytes,
                _ => Vec::new(),
            })
            .collect();
        assert_eq!(bytes, b"no line\x1b[0m");
    }

    #[test]
    fn console_lines_are_split_cut_and_flushed_at_the_end() {
        let (sender, receiver) = channel();
        let mut bytes = b"one\r\ntwo\n".to_vec();
        bytes.extend(vec![b'x'; LONGEST_LINE + 1]);
        read_lines(&mut bytes.as_slice(), &sender);
        drop(sender);
        let lines: Vec<String> = receiver
            .iter()
            .filter_map(|message| match message {
                Message::Said(line) => Some(printable(&line)),
                _ => None,
            })
            .collect();
        assert_eq!(&lines[..2], ["one", "two"]);
        assert_eq!(lines[2].len(), LONGEST_LINE);
        assert_eq!(lines[3], "x");
    }
}
