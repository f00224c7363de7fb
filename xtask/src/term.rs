//! What a person sees while waiting: a spinner on a terminal, plain lines
//! in a log.

use std::io::{BufRead, BufReader, IsTerminal};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anstyle::{AnsiColor, Style};
use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

/// Green: a promise held.
pub const GOOD: Style = AnsiColor::Green.on_default().bold();
/// Red: a promise broken.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// For side notes.
pub const DIM: Style = Style::new().dimmed();
/// For headings.
pub const HEAD: Style = Style::new().bold();

/// Text in a style; `anstream` drops the colours where they do not belong.
#[must_use]
pub fn paint(style: Style, text: impl std::fmt::Display) -> String {
    format!("{style}{text}{style:#}")
}

/// One step of the work, with its name, a moving note and its duration.
#[derive(Debug)]
pub struct Step {
    name: String,
    bar: Option<ProgressBar>,
    start: Instant,
}

impl Step {
    /// Begins a step.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("  {spinner} {prefix:<9} {wide_msg}") {
                bar.set_style(style);
            }
            bar.set_prefix(name.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { name: name.to_owned(), bar, start: Instant::now() }
    }

    /// Says what is happening now. A log hears only the end of a step.
    pub fn note(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_owned());
        }
    }

    /// Ends the step with its result.
    pub fn done(self, result: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let seconds = format!("({:.1} s)", self.start.elapsed().as_secs_f64());
        anstream::eprintln!("  {:<9} {result} {}", paint(HEAD, &self.name), paint(DIM, seconds));
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Runs a command, its last line as the step's note. What it printed on
/// stdout is returned; all it said on stderr is in the error if it fails.
///
/// # Errors
/// When the command cannot be started or ends with another status than 0.
pub fn run_quietly(step: &Step, command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}").replace('"', "");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{shown}`"))?;
    let stdout = child.stdout.take().context("no stdout")?;
    // Both pipes are drained at once, or the child could block on one of them.
    let reader = std::thread::spawn(move || std::io::read_to_string(stdout));
    let mut said = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            step.note(line.trim());
            said.push(line);
        }
    }
    let status = child.wait()?;
    let output = reader.join().map_err(|_| anyhow::anyhow!("lost the output of `{shown}`"))??;
    if !status.success() {
        // Cargo's messages for programs are not for people.
        said.extend(output.lines().filter(|line| !line.starts_with('{')).map(str::to_owned));
        bail!("{}\n`{shown}` failed ({status})", said.join("\n"));
    }
    Ok(output)
}
