//! Users with a home each, and what they do most.

use std::path::PathBuf;

use client::{Client, Event};
use end_to_end::{LogLevel, Stack, device};

pub(crate) struct User {
    pub(crate) client: Client,
    pub(crate) name: String,
    pub(crate) home: PathBuf,
}

/// Users with handles of their own, the first one connected to all others.
pub(crate) struct Scene {
    pub(crate) stack: Stack,
    pub(crate) users: Vec<User>,
}

pub(crate) async fn scene(names: &[&str]) -> Scene {
    let stack = Stack::start(LogLevel::Info).await;
    let mut users = Vec::new();
    for (number, name) in names.iter().enumerate() {
        let home = stack.home(name);
        let client = device(&stack, number, name).await;
        users.push(User {
            client,
            name: (*name).to_owned(),
            home,
        });
    }
    let (first, others) = users.split_first_mut().unwrap();
    for other in others.iter_mut() {
        first.client.connect(&other.name).await.unwrap();
        other.client.check_inbox().await.unwrap();
        let request = other.client.incoming_requests().unwrap().remove(0);
        assert_eq!(
            other.client.accept_request(&request.id).await.unwrap(),
            first.name
        );
    }
    first.client.sync(0).await.unwrap();
    for other in others {
        other.client.sync(0).await.unwrap();
    }
    assert_eq!(first.client.contacts().unwrap().len(), names.len() - 1);
    Scene { stack, users }
}

impl Scene {
    pub(crate) fn client(&mut self, user: usize) -> &Client {
        &mut self.users[user].client
    }

    pub(crate) fn name(&self, user: usize) -> String {
        self.users[user].name.clone()
    }

    pub(crate) async fn group(&mut self, name: &str, members: &[usize]) {
        self.client(0).create_group(name).await.unwrap();
        self.add(name, members).await;
    }

    pub(crate) async fn add(&mut self, group: &str, members: &[usize]) {
        let names: Vec<String> = members.iter().map(|member| self.name(*member)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.client(0).add_to_group(group, &names).await.unwrap();
    }

    pub(crate) async fn remove(&mut self, group: &str, member: usize) {
        let name = self.name(member);
        self.client(0)
            .remove_from_group(group, &[&name])
            .await
            .unwrap();
    }

    /// Texts that a user receives now.
    pub(crate) async fn texts(&mut self, user: usize) -> Vec<String> {
        let client = self.client(user);
        let events = client.receive(0).await.unwrap();
        client.acknowledge(&events).unwrap();
        events
            .into_iter()
            .filter_map(|stored| match stored.event {
                Event::Message { text, .. } => Some(text),
                _ => None,
            })
            .collect()
    }
}
