//! The man pages of both programs, from the definitions of their command lines.

use std::io::{self, Write};

use clap::Command;
use clap_mangen::Man;

/// What both pages end with.
const END: &str = include_str!("../packaging/man/end.roff");

/// Prints a program's page for this section of the manual, its commands on the same page.
///
/// # Errors
/// Those of standard output.
pub fn print(program: Command, section: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let mut program = program
        .disable_help_subcommand(true)
        .mut_subcommands(|command| command.disable_help_flag(true).disable_version_flag(true));
    program.build();
    let title = program.get_name().to_uppercase();
    let page = Man::new(program.clone()).title(title).section(section);
    page.render_title(&mut out)?;
    page.render_name_section(&mut out)?;
    page.render_synopsis_section(&mut out)?;
    page.render_description_section(&mut out)?;
    page.render_options_section(&mut out)?;
    writeln!(out, ".SH COMMANDS")?;
    for command in program.get_subcommands().filter(|command| !command.is_hide_set()) {
        writeln!(out, ".SS {}", command.get_name())?;
        let page = Man::new(command.clone());
        let mut text = Vec::new();
        page.render_synopsis_section(&mut text)?;
        text.extend(b".PP\n");
        page.render_description_section(&mut text)?;
        page.render_options_section(&mut text)?;
        // Of a page of its own it would have these headings.
        let text = String::from_utf8_lossy(&text);
        for line in text.lines().filter(|line| !line.starts_with(".SH ")) {
            writeln!(out, "{line}")?;
        }
    }
    write!(out, "{END}")
}
