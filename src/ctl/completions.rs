//! `cohortctl completions`: what a shell needs to complete our words.

use clap_complete::Shell;

use super::CtlError;

/// Print completions for a shell: bash, zsh, fish, elvish or powershell
#[derive(Debug, clap::Args)]
pub struct Completions {
    /// Which shell
    shell: Shell,
}

impl Completions {
    /// Runs the command; `cohortctl` is the definition of all of them.
    ///
    /// # Errors
    /// None.
    pub fn run(&self, mut cohortctl: clap::Command) -> Result<(), CtlError> {
        clap_complete::generate(self.shell, &mut cohortctl, "cohortctl", &mut std::io::stdout());
        Ok(())
    }
}
