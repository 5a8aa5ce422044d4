//! What clients have seen in a long run, and whether it is what they had to see.
//!
//! This knows names, texts and their order, and nothing of how a message comes. Each group has a
//! *witness*: a member from the first to the last moment who says nothing. What it has read, in its
//! order, is what the others are held against.

use std::collections::{BTreeMap, BTreeSet};

/// One thing that a client has seen in a group, or done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// It came in, and these were there.
    CameIn(BTreeSet<String>),
    /// Somebody else came in.
    Added(String),
    /// Somebody else was removed. Who was removed never comes back under that name.
    Removed(String),
    /// It gave a text to be sent. No text is said twice in a run.
    Said(String),
    /// A text of its own was accepted.
    Accepted(String),
    /// It read a text.
    Read {
        /// Of whom.
        sender: String,
        /// What.
        text: String,
    },
}

/// Of all clients and groups.
#[derive(Debug, Default)]
pub struct Record {
    /// By group, then by client.
    groups: BTreeMap<String, BTreeMap<String, Vec<Seen>>>,
    witnesses: BTreeMap<String, String>,
}

/// What must not be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A text that was accepted does not stand in the group.
    Vanished(String),
    /// A member did not read a text whose sender knew of it.
    Lost {
        /// Who.
        client: String,
        /// What.
        text: String,
    },
    /// Somebody read a text twice.
    Twice {
        /// Who.
        client: String,
        /// What.
        text: String,
    },
    /// Somebody read a text earlier than one that stands before it.
    OutOfOrder {
        /// Who.
        client: String,
        /// What.
        text: String,
    },
    /// Somebody read a text that nobody said there, or who was no member where it stands.
    Stray {
        /// Who.
        client: String,
        /// What.
        text: String,
    },
}

/// How much was held against what had to be seen.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Texts that were accepted.
    pub accepted: usize,
    /// Texts that somebody had to read, each counted for each reader.
    pub deliveries: usize,
}

/// Where a text stands in a group.
struct Standing<'a> {
    at: usize,
    sender: &'a str,
}

impl Record {
    /// Names who is in a group from the first to the last moment, and says nothing.
    pub fn witness(&mut self, group: &str, client: &str) {
        self.witnesses.insert(group.to_owned(), client.to_owned());
    }

    /// See [`Record::witness`].
    #[must_use]
    pub fn witness_of(&self, group: &str) -> Option<&str> {
        self.witnesses.get(group).map(String::as_str)
    }

    /// Notes what a client has seen next in a group.
    pub fn note(&mut self, client: &str, group: &str, seen: Seen) {
        let group = self.groups.entry(group.to_owned()).or_default();
        group.entry(client.to_owned()).or_default().push(seen);
    }

    /// Holds everything against what the witnesses have read.
    ///
    /// # Errors
    /// All faults.
    ///
    /// # Panics
    /// A group has no witness.
    pub fn check(&self) -> Result<Held, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut held = Held::default();
        for (group, clients) in &self.groups {
            let witness = &self.witnesses[group];
            check_group(witness, clients, &mut held, &mut faults);
        }
        faults.sort();
        match faults.is_empty() {
            true => Ok(held),
            false => Err(faults),
        }
    }
}

fn known(seen: &[Seen]) -> BTreeSet<String> {
    let mut members = BTreeSet::new();
    for seen in seen {
        match seen {
            Seen::CameIn(there) => members.extend(there.iter().cloned()),
            Seen::Added(name) => {
                members.insert(name.clone());
            }
            Seen::Removed(name) => {
                members.remove(name);
            }
            Seen::Said(_) | Seen::Accepted(_) | Seen::Read { .. } => {}
        }
    }
    members
}

fn check_group(
    witness: &str,
    clients: &BTreeMap<String, Vec<Seen>>,
    held: &mut Held,
    faults: &mut Vec<Fault>,
) {
    let reference = clients.get(witness).map_or(&[][..], Vec::as_slice);
    let mut stands: BTreeMap<&str, Standing<'_>> = BTreeMap::new();
    // From where on and up to where each of them is a member.
    let mut members: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (at, seen) in reference.iter().enumerate() {
        match seen {
            Seen::Read { sender, text } => {
                if stands.insert(text, Standing { at, sender }).is_some() {
                    faults.push(Fault::Twice {
                        client: witness.to_owned(),
                        text: text.clone(),
                    });
                }
            }
            Seen::Added(name) => {
                members.insert(name, (at, usize::MAX));
            }
            Seen::Removed(name) => {
                members.entry(name).and_modify(|(_, to)| *to = at);
            }
            Seen::CameIn(_) | Seen::Said(_) | Seen::Accepted(_) => {}
        }
    }
    let expected = must_read(clients, &stands, &members, held, faults);
    for (client, seen) in clients {
        if client != witness {
            let membership = members.get(client.as_str()).copied();
            check_reader(client, seen, &stands, membership, faults);
        }
        let read: BTreeSet<&str> = seen.iter().filter_map(text_read).collect();
        for text in expected.get(client.as_str()).into_iter().flatten() {
            held.deliveries += 1;
            if !read.contains(text) {
                faults.push(Fault::Lost {
                    client: client.clone(),
                    text: (*text).to_owned(),
                });
            }
        }
    }
}

fn text_read(seen: &Seen) -> Option<&str> {
    match seen {
        Seen::Read { text, .. } => Some(text),
        _ => None,
    }
}

/// Who has to read what: a text that was accepted has to be read by all members whom its sender
/// knew. Who came in without its sender's knowledge may have come in after it was encrypted.
fn must_read<'a>(
    clients: &'a BTreeMap<String, Vec<Seen>>,
    stands: &BTreeMap<&'a str, Standing<'a>>,
    members: &BTreeMap<&'a str, (usize, usize)>,
    held: &mut Held,
    faults: &mut Vec<Fault>,
) -> BTreeMap<&'a str, BTreeSet<&'a str>> {
    let mut expected: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for seen in clients.values() {
        let accepted = seen.iter().filter_map(|seen| match seen {
            Seen::Accepted(text) => Some(text.as_str()),
            _ => None,
        });
        for text in accepted {
            held.accepted += 1;
            if !stands.contains_key(text) {
                faults.push(Fault::Vanished(text.to_owned()));
            }
        }
        for (at, step) in seen.iter().enumerate() {
            let Seen::Said(text) = step else {
                continue;
            };
            let Some(standing) = stands.get(text.as_str()) else {
                continue;
            };
            let knew = known(&seen[..at]);
            for (member, (from, to)) in members {
                let is_there = *from < standing.at && standing.at < *to;
                if is_there && *member != standing.sender && knew.contains(*member) {
                    expected.entry(member).or_default().insert(text);
                }
            }
        }
    }
    expected
}

/// Whether a member has read in the witness's order, each text once, and none but where it was one.
fn check_reader(
    client: &str,
    seen: &[Seen],
    stands: &BTreeMap<&str, Standing<'_>>,
    membership: Option<(usize, usize)>,
    faults: &mut Vec<Fault>,
) {
    let mut read = BTreeSet::new();
    let mut last = None;
    for text in seen.iter().filter_map(text_read) {
        let (client, text) = (client.to_owned(), text.to_owned());
        let standing = stands.get(text.as_str());
        let at = standing.map(|standing| standing.at);
        let is_member = at
            .zip(membership)
            .is_some_and(|(at, (from, to))| from < at && at < to);
        let is_own = standing.is_some_and(|standing| standing.sender == client);
        if !is_member || is_own {
            faults.push(Fault::Stray { client, text });
        } else if !read.insert(text.clone()) {
            faults.push(Fault::Twice { client, text });
        } else if at < last {
            faults.push(Fault::OutOfOrder { client, text });
        } else {
            last = at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: &str = "g";

    fn read(sender: &str, text: &str) -> Seen {
        Seen::Read {
            sender: sender.into(),
            text: text.into(),
        }
    }

    /// Anna, the witness, sees bob and carol come, bob say three texts, and carol go before the
    /// third one.
    fn sound() -> Record {
        let mut record = Record::default();
        record.witness(GROUP, "anna");
        let mut note = |client: &str, seen: Seen| record.note(client, GROUP, seen);
        for seen in [
            Seen::Added("bob".into()),
            Seen::Added("carol".into()),
            read("bob", "one"),
            read("bob", "two"),
            Seen::Removed("carol".into()),
            read("bob", "three"),
        ] {
            note("anna", seen);
        }
        note("bob", Seen::CameIn(["anna".into()].into()));
        note("bob", Seen::Added("carol".into()));
        for text in ["one", "two", "three"] {
            note("bob", Seen::Said(text.into()));
            note("bob", Seen::Accepted(text.into()));
        }
        note("carol", Seen::CameIn(["anna".into(), "bob".into()].into()));
        record
    }

    fn carol_reads(texts: &[&str]) -> Result<Held, Vec<Fault>> {
        let mut record = sound();
        for text in texts {
            record.note("carol", GROUP, read("bob", text));
        }
        record.check()
    }

    fn of_carol(text: &str, fault: impl Fn(String, String) -> Fault) -> Result<Held, Vec<Fault>> {
        Err(vec![fault("carol".into(), text.into())])
    }

    #[test]
    fn what_is_as_it_has_to_be_is_counted() {
        let held = Held {
            accepted: 3,
            deliveries: 2,
        };
        assert_eq!(carol_reads(&["one", "two"]), Ok(held));
    }

    #[test]
    fn a_loss_a_repetition_a_change_of_order_and_a_stray_text_are_found() {
        let lost = |client, text| Fault::Lost { client, text };
        assert_eq!(carol_reads(&["two"]), of_carol("one", lost));
        let twice = |client, text| Fault::Twice { client, text };
        assert_eq!(carol_reads(&["one", "two", "two"]), of_carol("two", twice));
        let out = |client, text| Fault::OutOfOrder { client, text };
        assert_eq!(carol_reads(&["two", "one"]), of_carol("one", out));
        let stray = |client, text| Fault::Stray { client, text };
        // Behind her removal, and what nobody said.
        assert_eq!(
            carol_reads(&["one", "two", "three"]),
            of_carol("three", stray)
        );
        assert_eq!(
            carol_reads(&["one", "two", "four"]),
            of_carol("four", stray)
        );
    }

    #[test]
    fn a_text_that_was_accepted_and_stands_nowhere_is_found() {
        let mut record = sound();
        for text in ["one", "two"] {
            record.note("carol", GROUP, read("bob", text));
        }
        record.note("bob", GROUP, Seen::Said("four".into()));
        record.note("bob", GROUP, Seen::Accepted("four".into()));
        assert_eq!(record.check(), Err(vec![Fault::Vanished("four".into())]));
    }

    #[test]
    fn a_text_whose_sender_did_not_know_of_a_member_may_be_missing_there() {
        let mut record = Record::default();
        record.witness(GROUP, "anna");
        for seen in [
            Seen::Added("bob".into()),
            Seen::Added("carol".into()),
            read("bob", "one"),
        ] {
            record.note("anna", GROUP, seen);
        }
        record.note("bob", GROUP, Seen::Said("one".into()));
        record.note("bob", GROUP, Seen::Accepted("one".into()));
        record.note("bob", GROUP, Seen::Added("carol".into()));
        record.note("carol", GROUP, Seen::CameIn(["anna".into()].into()));
        assert_eq!(record.check().map(|held| held.deliveries), Ok(0));
    }
}
