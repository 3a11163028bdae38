//! Data on stdout, talk on stderr.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is the place where a command speaks")]

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::io::{IsTerminal, Write};

/// How to speak.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// JSON instead of text.
    pub json: bool,
    /// No notes.
    pub quiet: bool,
}

impl Output {
    /// One JSON object on a line of its own, with its schema's name first.
    pub fn json(self, command: &str, value: impl Serialize) {
        #[derive(Serialize)]
        struct Tagged<T> {
            schema: String,
            #[serde(flatten)]
            value: T,
        }
        let tagged = Tagged { schema: format!("spawn.{command}.v1"), value };
        match serde_json::to_string(&tagged) {
            Ok(line) => self.line(line),
            Err(error) => eprintln!("error: cannot write JSON: {error}"),
        }
    }

    /// A line of data. A reader that went away (`| head`) is no error.
    pub fn line(self, line: impl std::fmt::Display) {
        if writeln!(std::io::stdout(), "{line}").is_err() {
            std::process::exit(0);
        }
    }

    /// Text for people: to stdout, or to stderr when stdout is for JSON.
    pub fn say(self, text: impl std::fmt::Display) {
        if self.json {
            self.note(text);
        } else {
            self.line(text);
        }
    }

    /// A remark on the way.
    pub fn note(self, text: impl std::fmt::Display) {
        if !self.quiet {
            eprintln!("{text}");
        }
    }

    /// Progress bars on stderr; hidden where that is no terminal.
    pub fn bars(self) -> MultiProgress {
        let visible = !self.quiet
            && std::io::stderr().is_terminal()
            && std::env::var_os("TERM").is_none_or(|t| t != "dumb");
        MultiProgress::with_draw_target(if visible {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        })
    }
}

/// A bar with rate and estimated time.
pub fn bar(bars: &MultiProgress, name: &str, length: u64) -> ProgressBar {
    let template = "{prefix:<8} {bar:30} {human_pos}/{human_len} {per_sec:>12} eta {eta:<4} {msg}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bars.add(ProgressBar::new(length)).with_style(style).with_prefix(name.to_owned())
}
