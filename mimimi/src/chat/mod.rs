//! `mimimi chat`: conversations on the left, what was said on the right, live.
//!
//! [`state`] decides what a key and an event do and knows no terminal. [`screen`] draws the state
//! and changes nothing. This file has the terminal, the keys and the client.

mod screen;
mod state;

use std::io::{self, IsTerminal as _};
use std::sync::Arc;

use client::{Client, Error, Events, LocalError, StoredEvent};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{DisableBracketedPaste, EnableBracketedPaste, Event as Input};
use ratatui::crossterm::execute;
use tokio::sync::mpsc;

use crate::arguments::Command;
use crate::commands;
use crate::events::received;
use crate::messages::{Transfers, mark_read};
use crate::terminal::escape;
use state::{Action, Chat, Place};

/// Keys that wait to be looked at: who pastes is not made to wait, nor the memory filled.
const KEYS: usize = 256;

/// What comes from elsewhere than the keyboard and the client.
enum Told {
    /// A command has ended, with the lines that it prints.
    Done(Vec<String>),
    /// A call waits for an answer.
    Waits(String),
}

/// Chats until the user ends it, with `group` in front.
pub(crate) async fn run(
    home: &std::path::Path,
    group: Option<String>,
    profile: client::Profile,
) -> Result<(), Error> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        let no_terminal = io::Error::other("standard input and output are no terminal");
        return Err(LocalError::Input(no_terminal).into());
    }
    let (told, tellings) = mpsc::unbounded_channel();
    let tell = told.clone();
    let options = client::Options {
        profile,
        progress: Some(Arc::new(move |waiting| {
            // Nobody looks any more when it is closed.
            let _ = tell.send(Told::Waits(escape(&waiting.reason)));
        })),
        ..client::Options::default()
    };
    let client = Client::open(home, options).await?;
    let place = match group {
        Some(group) => Place::Group(client.group(&group)?.name),
        None => Place::News,
    };
    let mut window = Window::open()?;
    let mut session = Session {
        events: client.event_stream(),
        client,
        chat: Chat::new(place),
        told,
    };
    let ended = session.run(&mut window.0, tellings).await;
    drop(window);
    session.client.close().await;
    ended
}

/// The terminal while it is ours. However this ends, it is as before.
struct Window(DefaultTerminal);

impl Window {
    fn open() -> Result<Self, Error> {
        let terminal = ratatui::try_init().map_err(LocalError::Output)?;
        let window = Self(terminal);
        execute!(io::stdout(), EnableBracketedPaste).map_err(LocalError::Output)?;
        Ok(window)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // A terminal that is gone cannot be put back.
        let _ = execute!(io::stdout(), DisableBracketedPaste);
        let _ = ratatui::try_restore();
    }
}

/// Keys as they are pressed. The thread waits for one more when nobody listens any more; the
/// program's end ends it.
fn keys() -> mpsc::Receiver<io::Result<Input>> {
    let (pressed, keys) = mpsc::channel(KEYS);
    std::thread::spawn(move || {
        loop {
            let key = ratatui::crossterm::event::read();
            let failed = key.is_err();
            if pressed.blocking_send(key).is_err() || failed {
                return;
            }
        }
    });
    keys
}

struct Session {
    client: Client,
    events: Events,
    chat: Chat,
    told: mpsc::UnboundedSender<Told>,
}

impl Session {
    async fn run(
        &mut self,
        terminal: &mut DefaultTerminal,
        mut tellings: mpsc::UnboundedReceiver<Told>,
    ) -> Result<(), Error> {
        let mut keys = keys();
        self.look()?;
        loop {
            terminal
                .draw(|frame| screen::draw(frame, &mut self.chat))
                .map_err(LocalError::Output)?;
            tokio::select! {
                key = keys.recv() => {
                    let key = key.unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()));
                    let key = key.map_err(LocalError::Input)?;
                    match self.chat.input(&key) {
                        Some(Action::Quit) => return Ok(()),
                        Some(action) => self.act(action)?,
                        None => {}
                    }
                }
                event = self.events.next() => self.happened(event?)?,
                told = tellings.recv() => match told {
                    Some(Told::Done(lines)) => {
                        self.chat.tell(lines);
                        self.look()?;
                    }
                    Some(Told::Waits(why)) => self.chat.waits(why),
                    None => {}
                },
            }
        }
    }

    /// Follows the conversation that is in front, and shows it as it is now.
    fn look(&mut self) -> Result<(), Error> {
        self.chat.set_groups(self.client.groups()?);
        if let Place::Group(name) = self.chat.place().clone() {
            // It waits until the client has time, and the screen does not.
            let (client, told) = (self.client.clone(), self.told.clone());
            tokio::spawn(async move {
                // A group that this client has left is not followed.
                if let Err(error) = client.bring_to_front(&name).await {
                    let _ = told.send(Told::Waits(escape(&error.to_string())));
                }
            });
        }
        self.read()
    }

    /// Shows the conversation that is in front: what is seen is read.
    fn read(&mut self) -> Result<(), Error> {
        if let Place::Group(name) = self.chat.place().clone() {
            let messages = self.client.messages(&name, None, self.chat.wanted());
            self.chat.set_messages(or_nothing(messages)?);
        }
        let seen: Vec<StoredEvent> = self.chat.seen();
        mark_read(&self.client, &seen)?;
        self.client.acknowledge(&seen)
    }

    fn happened(&mut self, event: StoredEvent) -> Result<(), Error> {
        let lines = received(std::slice::from_ref(&event)).into_lines();
        // What is said changes no list, and each group's state is read for that.
        if self.chat.happened(event, lines) {
            self.chat.set_groups(self.client.groups()?);
        }
        self.read()
    }

    fn act(&mut self, action: Action) -> Result<(), Error> {
        match action {
            Action::Quit => {}
            Action::Look => self.look()?,
            Action::Say(group, draft) => {
                match self.client.queue_message(&group, *draft) {
                    Err(error @ Error::Local(_)) => return Err(error),
                    Err(error) => self.chat.refused(escape(&error.to_string())),
                    Ok(_) => self.chat.said(),
                }
                self.read()?;
            }
            Action::Command(command) => self.command(*command),
        }
        Ok(())
    }

    /// Does what `mimimi` would, beside the conversation.
    fn command(&self, command: Command) {
        let (client, told) = (self.client.clone(), self.told.clone());
        tokio::spawn(async move {
            let lines = match commands::execute(&client, command, Transfers::Quiet).await {
                Ok(output) => output.into_lines(),
                Err(error) => vec![escape(&error.to_string())],
            };
            // Nobody looks any more when it is closed.
            let _ = told.send(Told::Done(lines));
        });
    }
}

/// A group that is forgotten by now has nothing to show.
fn or_nothing<T: Default>(result: Result<T, Error>) -> Result<T, Error> {
    match result {
        Err(error @ Error::Local(_)) => Err(error),
        Err(_) => Ok(T::default()),
        Ok(found) => Ok(found),
    }
}
