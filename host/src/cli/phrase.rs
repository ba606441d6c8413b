//! What a new vault's keys come from: a phrase that is made here or given, and its
//! passphrase. Both stay on the terminal, or come from standard input.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Read as _, Write as _};

use alknet_vault::{Phrase, PhraseSource, VaultError, VaultServiceHandle};
use zeroize::Zeroizing;

use super::failure::{Exit, Failure};

/// A phrase and its passphrase.
pub(super) struct Words {
    phrase: Phrase,
    /// Empty where the phrase has none.
    passphrase: Zeroizing<String>,
}

impl Words {
    /// Makes a phrase of so many words, which is shown and has to be repeated.
    pub(super) fn new(count: usize, with_passphrase: bool) -> Result<Self, Failure> {
        let phrase = new_phrase(count)?;
        let passphrase = if with_passphrase { new_passphrase()? } else { Zeroizing::default() };
        Ok(Self { phrase, passphrase })
    }

    /// Takes what there is already: from the terminal, or from standard input, with
    /// the passphrase on its second line.
    pub(super) fn given(with_passphrase: bool) -> Result<Self, Failure> {
        let text = secret_input("phrase: ", 1024)?;
        if !with_passphrase {
            let (phrase, passphrase) = (Phrase::parse(text.trim())?, Zeroizing::default());
            return Ok(Self { phrase, passphrase });
        }
        if io::stdin().is_terminal() {
            let phrase = Phrase::parse(text.trim())?;
            return Ok(Self { phrase, passphrase: new_passphrase()? });
        }
        let (phrase, passphrase) = PhraseSource::lines(&text).ok_or_else(|| {
            Failure::new(Exit::Usage, "there is no passphrase on the line below the phrase")
                .remedy("add it there, or say in node.toml that the phrase has none")
        })?;
        Ok(Self {
            phrase: Phrase::parse(phrase)?,
            passphrase: Zeroizing::new(passphrase.to_owned()),
        })
    }

    /// The vault of these words, unlocked.
    pub(super) fn vault(&self) -> Result<VaultServiceHandle, VaultError> {
        let vault = VaultServiceHandle::new();
        vault.unlock(&self.phrase.reveal(), &self.passphrase)?;
        Ok(vault)
    }

    /// The text of a file that unlocks the vault.
    pub(super) fn lines(&self) -> Zeroizing<String> {
        let phrase = self.phrase.reveal();
        // Room for all: a text that grows leaves copies behind.
        let mut text =
            Zeroizing::new(String::with_capacity(phrase.len() + self.passphrase.len() + 2));
        for line in [&*phrase, &*self.passphrase].into_iter().filter(|line| !line.is_empty()) {
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}

/// Makes a phrase and has it repeated. It goes to the terminal alone, wherever
/// the standard streams lead.
fn new_phrase(words: usize) -> Result<Phrase, Failure> {
    let phrase = Phrase::generate(words)?;
    let no_terminal = |error: io::Error| {
        Failure::new(Exit::Usage, format!("a new phrase is shown on a terminal: {error}")).remedy(
            "run this in a terminal, or pipe a phrase that you have into `alknet vault import`",
        )
    };
    let mut terminal = OpenOptions::new().write(true).open("/dev/tty").map_err(no_terminal)?;
    let shown = numbered(&phrase.reveal());
    terminal.write_all(shown.as_bytes()).map_err(no_terminal)?;
    for attempt in 1..=3 {
        let asked = rpassword::prompt_password("the phrase again (it is not shown): ");
        let again = Zeroizing::new(asked.map_err(no_terminal)?);
        if Phrase::parse(&again).is_ok_and(|again| *again.reveal() == *phrase.reveal()) {
            return Ok(phrase);
        }
        if attempt < 3 {
            // The next question says it all, should this not arrive.
            let _lost = terminal.write_all(b"that is not the phrase\n");
        }
    }
    Err(Failure::new(Exit::Usage, "the phrase was not repeated; nothing was written"))
}

fn numbered(phrase: &str) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(1024));
    text.push_str(
        "Every key and secret of this node comes from this phrase. Write it down and keep\n\
         it: it is shown this once, and nobody can restore it.\n\n",
    );
    for (n, word) in phrase.split(' ').enumerate() {
        text.push_str(&format!("{:>4} {word:<9}", n + 1));
        if n % 4 == 3 {
            text.push('\n');
        }
    }
    text.push('\n');
    text
}

/// Asks for a passphrase, twice: with a mistyped one the phrase gives other keys, and
/// nothing says so.
fn new_passphrase() -> Result<Zeroizing<String>, Failure> {
    let ask = |prompt: &str| {
        rpassword::prompt_password(prompt).map(Zeroizing::new).map_err(|error| {
            Failure::new(Exit::Usage, format!("a passphrase is asked for on a terminal: {error}"))
        })
    };
    for _attempt in 1..=3 {
        let passphrase = ask("passphrase (it is not shown): ")?;
        if !passphrase.is_empty() && ask("the passphrase again: ")? == passphrase {
            return Ok(passphrase);
        }
    }
    Err(Failure::new(Exit::Usage, "the passphrase was not repeated; nothing was written"))
}

/// Asks on a terminal; reads standard input to its end where that is none.
pub(super) fn secret_input(prompt: &str, limit: u64) -> Result<Zeroizing<String>, Failure> {
    let failed = |error: io::Error| {
        Failure::new(Exit::Usage, format!("standard input cannot be read: {error}"))
    };
    if io::stdin().is_terminal() {
        return rpassword::prompt_password(prompt).map(Zeroizing::new).map_err(failed);
    }
    // Room for all: a text that grows leaves copies behind.
    let mut text = Zeroizing::new(String::with_capacity(limit as usize + 1));
    io::stdin().lock().take(limit + 1).read_to_string(&mut text).map_err(failed)?;
    match text.len() as u64 > limit {
        true => Err(Failure::new(Exit::Usage, format!("standard input has over {limit} bytes"))),
        false => Ok(text),
    }
}
