//! What is on the screen, and what keys and events do to it.

use std::collections::BTreeMap;

use clap::Parser as _;
use client::{Draft, Event, GroupSummary, Message, MessageId, StoredEvent};
use ratatui::crossterm::event::{Event as Pressed, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tui_input::backend::crossterm::EventHandler as _;
use tui_input::{Input, InputRequest};

use crate::arguments::{Arguments, Command};
use crate::terminal::{Name, escape};

/// So many messages more are read for each look at earlier ones.
const PAGE: u32 = 100;
/// So many lines of news are kept.
const MOST_NEWS: usize = 1_000;

/// What is in front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// What happened outside of conversations, and what commands have said.
    News,
    /// A group, by its name.
    Group(String),
}

/// What the keys are about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mode {
    /// A new message.
    Write,
    /// Which message: counted from the last one.
    Choose(usize),
    Reply(MessageId),
    Edit(MessageId),
    React(MessageId),
    /// Deleting it, if the user is sure.
    Delete(MessageId),
}

/// What is to be done by the client.
#[derive(Debug)]
pub(super) enum Action {
    Quit,
    /// Something else is in front, or more of it is wanted.
    Look,
    Say(String, Box<Draft>),
    Command(Box<Command>),
}

pub(super) struct Chat {
    groups: Vec<GroupSummary>,
    place: Place,
    /// Of the group in front, the last first.
    messages: Vec<Message>,
    wanted: u32,
    /// How many lines further back than the end the screen shows.
    pub(super) back: usize,
    /// The screen shows the first of the messages that were read.
    pub(super) at_first: bool,
    pub(super) input: Input,
    pub(super) mode: Mode,
    news: Vec<String>,
    /// Events that were not seen, by the group that they are of; the others under none.
    unseen: BTreeMap<Option<String>, Vec<StoredEvent>>,
    status: String,
}

/// The group in whose conversation an event is seen.
fn group_of(event: &Event) -> Option<String> {
    match event {
        Event::Message { group, .. }
        | Event::MessageEdited { group, .. }
        | Event::MessageDeleted { group, .. }
        | Event::Reaction { group, .. }
        | Event::ReactionTakenBack { group, .. }
        | Event::Receipt { group, .. }
        | Event::MessageExpired { group, .. }
        | Event::MessageSent { group, .. }
        | Event::MessageFailed { group, .. } => Some(group.clone()),
        _ => None,
    }
}

impl Chat {
    pub(super) fn new(place: Place) -> Self {
        Self {
            groups: Vec::new(),
            place,
            messages: Vec::new(),
            wanted: PAGE,
            back: 0,
            at_first: false,
            input: Input::default(),
            mode: Mode::Write,
            news: Vec::new(),
            unseen: BTreeMap::new(),
            status: String::new(),
        }
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    pub(super) fn groups(&self) -> &[GroupSummary] {
        &self.groups
    }

    pub(super) fn messages(&self) -> &[Message] {
        &self.messages
    }

    pub(super) fn news(&self) -> &[String] {
        &self.news
    }

    pub(super) fn status(&self) -> &str {
        &self.status
    }

    /// How many messages of the group in front are wanted.
    pub(super) fn wanted(&self) -> u32 {
        self.wanted
    }

    /// How many messages of a group were not seen, or how much other news.
    pub(super) fn unseen(&self, place: &Place) -> usize {
        let events = match place {
            Place::News => self.unseen.get(&None),
            Place::Group(name) => self.unseen.get(&Some(name.clone())),
        };
        let counts = |event: &&StoredEvent| {
            *place == Place::News || matches!(event.event, Event::Message { .. })
        };
        events.map_or(0, |events| events.iter().filter(counts).count())
    }

    /// Events that are on the screen now: they count as unseen no more.
    pub(super) fn seen(&mut self) -> Vec<StoredEvent> {
        let key = match &self.place {
            Place::News => None,
            Place::Group(name) => Some(name.clone()),
        };
        self.unseen.remove(&key).unwrap_or_default()
    }

    pub(super) fn set_groups(&mut self, groups: Vec<GroupSummary>) {
        self.groups = groups;
        if let Place::Group(name) = &self.place
            && !self.groups.iter().any(|group| group.name == *name)
        {
            self.go(Place::News);
        }
    }

    pub(super) fn set_messages(&mut self, messages: Vec<Message>) {
        self.messages = messages;
        if let Mode::Choose(at) = self.mode
            && at >= self.messages.len()
        {
            self.mode = Mode::Write;
        }
    }

    /// An event, and what is said of it where no conversation shows it. Whether groups may have
    /// come, gone or got another name.
    pub(super) fn happened(&mut self, event: StoredEvent, lines: Vec<String>) -> bool {
        let group = group_of(&event.event);
        let is_news = group.is_none();
        if is_news {
            self.status = lines.first().cloned().unwrap_or_default();
            self.add_news(lines);
        }
        self.unseen.entry(group).or_default().push(event);
        is_news
    }

    /// What a command has said.
    pub(super) fn tell(&mut self, lines: Vec<String>) {
        self.status = lines.last().cloned().unwrap_or_default();
        self.add_news(lines);
    }

    fn add_news(&mut self, lines: Vec<String>) {
        self.news.extend(lines);
        let more = self.news.len().saturating_sub(MOST_NEWS);
        self.news.drain(..more);
    }

    /// Something takes its time.
    pub(super) fn waits(&mut self, why: String) {
        self.status = why;
    }

    /// What was written could not be said: it stays.
    pub(super) fn refused(&mut self, why: String) {
        self.status = why;
    }

    /// What was written is in the outbox.
    pub(super) fn said(&mut self) {
        self.input.reset();
        self.mode = Mode::Write;
        self.status.clear();
        self.back = 0;
    }

    fn go(&mut self, place: Place) {
        self.place = place;
        self.messages.clear();
        self.wanted = PAGE;
        self.back = 0;
        self.mode = Mode::Write;
        self.input.reset();
        self.status.clear();
    }

    /// The conversation so many places down from the one in front, around the end.
    fn next(&mut self, down: isize) -> Option<Action> {
        let names = self.groups.iter().map(|it| Place::Group(it.name.clone()));
        let places: Vec<Place> = std::iter::once(Place::News).chain(names).collect();
        let at = places.iter().position(|it| *it == self.place).unwrap_or(0);
        let count = isize::try_from(places.len()).ok()?;
        let next = isize::try_from(at).ok()?.checked_add(down)?;
        let next = usize::try_from(next.rem_euclid(count)).ok()?;
        self.go(places.get(next)?.clone());
        Some(Action::Look)
    }

    pub(super) fn input(&mut self, pressed: &Pressed) -> Option<Action> {
        match pressed {
            Pressed::Key(key) if key.kind != KeyEventKind::Release => self.key(pressed, *key),
            Pressed::Paste(text) if !matches!(self.mode, Mode::Choose(_) | Mode::Delete(_)) => {
                for character in text.replace("\r\n", "\n").replace('\r', "\n").chars() {
                    self.input.handle(InputRequest::InsertChar(character));
                }
                None
            }
            _ => None,
        }
    }

    fn key(&mut self, pressed: &Pressed, key: KeyEvent) -> Option<Action> {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c' | 'q') if control => return Some(Action::Quit),
            KeyCode::Tab => return self.next(1),
            KeyCode::BackTab => return self.next(-1),
            KeyCode::Down if control => return self.next(1),
            KeyCode::Up if control => return self.next(-1),
            KeyCode::PageUp => {
                self.back = self.back.saturating_add(10);
                return (self.at_first && self.want_more()).then_some(Action::Look);
            }
            KeyCode::PageDown => {
                self.back = self.back.saturating_sub(10);
                return None;
            }
            KeyCode::Esc => {
                if self.mode != Mode::Write {
                    self.input.reset();
                }
                self.mode = Mode::Write;
                self.status.clear();
                return None;
            }
            _ => {}
        }
        match self.mode.clone() {
            Mode::Choose(at) => self.choose(at, key.code),
            Mode::Delete(message) => {
                self.mode = Mode::Write;
                (key.code == KeyCode::Char('y'))
                    .then(|| self.say(Draft::deletion(message)))
                    .flatten()
            }
            mode => match key.code {
                KeyCode::Enter if key.modifiers.contains(KeyModifiers::ALT) => {
                    self.input.handle(InputRequest::InsertChar('\n'));
                    None
                }
                KeyCode::Enter => self.enter(mode),
                KeyCode::Up if !self.messages.is_empty() => {
                    self.mode = Mode::Choose(0);
                    self.input.reset();
                    None
                }
                _ => {
                    self.input.handle_event(pressed);
                    None
                }
            },
        }
    }

    /// More of the conversation is wanted than was read.
    fn want_more(&mut self) -> bool {
        let read = u32::try_from(self.messages.len()).unwrap_or(u32::MAX);
        let more = read >= self.wanted;
        if more {
            self.wanted = self.wanted.saturating_add(PAGE);
        }
        more
    }

    fn choose(&mut self, at: usize, key: KeyCode) -> Option<Action> {
        match key {
            KeyCode::Up => {
                let up = at.saturating_add(1);
                if up < self.messages.len() {
                    self.mode = Mode::Choose(up);
                } else if self.want_more() {
                    return Some(Action::Look);
                }
            }
            KeyCode::Down => {
                self.mode = at.checked_sub(1).map_or(Mode::Write, Mode::Choose);
            }
            KeyCode::Char(letter) => {
                let message = self.messages.get(at)?;
                let (id, own) = (message.message, message.own);
                let is_there = message.gone.is_none();
                match letter {
                    'r' if is_there => self.mode = Mode::Reply(id),
                    '+' if is_there => self.mode = Mode::React(id),
                    'd' if own && is_there => self.mode = Mode::Delete(id),
                    'e' if own && is_there => {
                        self.input = Input::new(message.text.clone());
                        self.mode = Mode::Edit(id);
                    }
                    'e' | 'd' if is_there => {
                        "only messages of your own can be changed".clone_into(&mut self.status);
                    }
                    _ => {}
                }
            }
            _ => {}
        }
        None
    }

    fn say(&self, draft: Draft) -> Option<Action> {
        match &self.place {
            Place::Group(name) => Some(Action::Say(name.clone(), Box::new(draft))),
            Place::News => None,
        }
    }

    fn enter(&mut self, mode: Mode) -> Option<Action> {
        let text = self.input.value().to_owned();
        if text.trim().is_empty() {
            return None;
        }
        match mode {
            Mode::Write => match text.strip_prefix('/') {
                // Two begin a text with one.
                Some(text) if text.starts_with('/') => self.say(Draft::text(text)),
                Some(command) => self.command(command),
                None if self.place == Place::News => {
                    "a message goes to a group: Tab leads to one; a command begins with /"
                        .clone_into(&mut self.status);
                    None
                }
                None => self.say(Draft::text(text)),
            },
            Mode::Reply(to) => self.say(Draft::text(text).reply_to(to)),
            Mode::Edit(message) => self.say(Draft::edit(message, text)),
            Mode::React(to) => self.say(Draft::reaction(to, text.trim())),
            Mode::Choose(_) | Mode::Delete(_) => None,
        }
    }

    /// A command as on the command line, without the program's name.
    fn command(&mut self, line: &str) -> Option<Action> {
        let Some(words) = shlex::split(line) else {
            "a quotation mark is not closed".clone_into(&mut self.status);
            return None;
        };
        if matches!(words.first().map(String::as_str), Some("quit" | "exit")) {
            return Some(Action::Quit);
        }
        let words = std::iter::once("mimimi".to_owned()).chain(words);
        match Arguments::try_parse_from(words) {
            Ok(arguments) if arguments.command.fits_a_chat() => {
                self.input.reset();
                self.add_news(vec![format!("/{}", escape(line))]);
                "…".clone_into(&mut self.status);
                Some(Action::Command(Box::new(arguments.command)))
            }
            Ok(_) => {
                "that is done outside of a chat".clone_into(&mut self.status);
                None
            }
            Err(error) => {
                let text = error.render().to_string();
                let lines: Vec<String> = text.lines().map(escape).collect();
                self.status = lines.first().cloned().unwrap_or_default();
                self.add_news(lines);
                if error.exit_code() == 0 {
                    self.go(Place::News);
                    return Some(Action::Look);
                }
                None
            }
        }
    }

    /// What the keys do now.
    pub(super) fn hint(&self) -> String {
        let about = |id: &MessageId| {
            let message = self.messages.iter().find(|it| it.message == *id);
            let who = message.map_or("somebody", |it| &it.sender);
            Name(who).to_string()
        };
        match &self.mode {
            Mode::Write => "Tab next · ↑ choose · PgUp back · /help · Ctrl-C end".to_owned(),
            Mode::Choose(_) => "r reply · + react · e edit · d delete · Esc".to_owned(),
            Mode::Reply(id) => format!("reply to {} · Esc", about(id)),
            Mode::Edit(_) => "edit · Esc".to_owned(),
            Mode::React(id) => format!("reaction to what {} says · Esc", about(id)),
            Mode::Delete(_) => "delete it, as far as others do? y · Esc".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
