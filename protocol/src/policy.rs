//! Roles and participants of a group, as group context data that its members agree on (after
//! draft-ietf-mimi-room-policy). The service and every client judge by these same functions; a rule
//! refuses only what is unambiguously against the policy of the epoch that a commit or message
//! names.

use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize, VLBytes};

/// The MLS group context extension with a [`GroupPolicy`] (RFC 9420 §17.3, private use).
pub const POLICY_EXTENSION: u16 = 0xf0c3;

/// The version of [`GroupPolicy`] that this crate speaks.
pub const POLICY_VERSION: u16 = 1;

/// Most roles of a group.
pub const MAX_ROLES: usize = 32;
/// Most listed participants of a group.
pub const MAX_PARTICIPANTS: usize = 4096;
/// Longest [`Participant::person`], bytes.
pub const MAX_PERSON: usize = 256;
/// Longest [`GroupPolicy::profile`], bytes.
pub const MAX_PROFILE: usize = 8192;
/// Longest name of a role, bytes.
pub const MAX_ROLE_NAME: usize = 64;

/// A set of capabilities, one bit each: to add users and make join codes (1), remove users (2), set
/// roles (4), send (8), delete (16), set the profile (32). Other bits are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct Capabilities(pub u16);

impl Capabilities {
    /// The empty set of capabilities.
    pub const NONE: Self = Self(0);
    /// Add users, and make join codes.
    pub const ADD: Self = Self(1);
    /// Remove users, with all their clients.
    pub const REMOVE: Self = Self(2);
    /// Change the policy: roles and standings.
    pub const SET_ROLE: Self = Self(4);
    /// Send application messages.
    pub const SEND: Self = Self(8);
    /// Delete the group, or re-initialise it as another.
    pub const DELETE: Self = Self(16);
    /// Change the group's profile: name, description, picture.
    pub const SET_PROFILE: Self = Self(32);
    /// All capabilities together.
    pub const ALL: Self = Self(63);

    /// Whether all of `other` are in this set.
    #[must_use]
    pub const fn contain(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The union of both sets.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These but not `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// A named set of capabilities.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct Role {
    /// Names it in this policy.
    pub number: u8,
    /// The role's name, UTF-8, for people.
    pub name: VLBytes,
    /// What its holders may do.
    pub capabilities: Capabilities,
}

/// How a participant stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum Standing {
    /// The user may do everything that the role allows.
    Active = 1,
    /// Has left or is away; keeps the role for its return, and may do nothing meanwhile.
    Inactive = 2,
    /// As active, but may not send.
    Muted = 3,
    /// May do nothing and may not come in.
    Banned = 4,
}

/// A user whose role or standing is not the default.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct Participant {
    /// As in the user's leaves.
    pub user_pseudonym: VLBytes,
    /// The [`Role::number`] of the user's role.
    pub role: u8,
    /// Whether the user is active, inactive, muted or banned.
    pub standing: Standing,
    /// The person behind the pseudonym, sealed under a key of the members, so that the service
    /// learns nothing. Empty unless a ban or mute must outlast the pseudonym.
    pub person: VLBytes,
}

/// The policy of a group. A user who is not listed is active in the default role, so that adding
/// one changes nothing here.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct GroupPolicy {
    /// [`POLICY_VERSION`].
    pub version: u16,
    /// The roles, ascending by number.
    pub roles: Vec<Role>,
    /// The role of a user who is not listed.
    pub default_role: u8,
    /// The listed users, ascending by pseudonym.
    pub participants: Vec<Participant>,
    /// Name, description and picture of the group, sealed under a key of the members, so that the
    /// service learns nothing. Empty for none.
    pub profile: VLBytes,
}

/// Why a policy, or a change of one, is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Unknown version, too much of something, out of order, or a role that is not there.
    #[error("the policy is malformed")]
    Malformed,
    /// The committer may not change the policy, or not in this way.
    #[error("the change is not the committer's to make")]
    NotAllowed,
    /// Nobody would be left who could change it again.
    #[error("nobody could change the policy any more")]
    NoAdmin,
}

impl GroupPolicy {
    /// The number of the ready-made role with every capability.
    pub const ADMIN: u8 = 0;
    /// The number of the ready-made default role: add and send.
    pub const MEMBER: u8 = 1;

    /// The policy of a new group: its creator is an admin, everybody else a member.
    #[must_use]
    pub fn of_creator(user_pseudonym: VLBytes) -> Self {
        Self {
            version: POLICY_VERSION,
            roles: vec![
                Role {
                    number: Self::ADMIN,
                    name: VLBytes::new(b"admin".to_vec()),
                    capabilities: Capabilities::ALL,
                },
                Role {
                    number: Self::MEMBER,
                    name: VLBytes::new(b"member".to_vec()),
                    capabilities: Capabilities::ADD.and(Capabilities::SEND),
                },
            ],
            default_role: Self::MEMBER,
            participants: vec![Participant {
                user_pseudonym,
                role: Self::ADMIN,
                standing: Standing::Active,
                person: VLBytes::new(Vec::new()),
            }],
            profile: VLBytes::new(Vec::new()),
        }
    }

    /// The same policy with another profile.
    #[must_use]
    pub fn with_profile(&self, profile: Vec<u8>) -> Self {
        Self {
            profile: VLBytes::new(profile),
            ..self.clone()
        }
    }

    /// Checks what must hold of every policy.
    ///
    /// # Errors
    /// [`PolicyError::Malformed`].
    pub fn check(&self) -> Result<(), PolicyError> {
        let ordered_roles = self.roles.is_sorted_by(|a, b| a.number < b.number);
        let ordered_participants = self
            .participants
            .is_sorted_by(|a, b| a.user_pseudonym.as_slice() < b.user_pseudonym.as_slice());
        let sound_roles = self.roles.iter().all(|role| {
            Capabilities::ALL.contain(role.capabilities)
                && role.name.as_slice().len() <= MAX_ROLE_NAME
        });
        let known_roles = self.role(self.default_role).is_some()
            && self
                .participants
                .iter()
                .all(|participant| self.role(participant.role).is_some());
        let bounded_people = self
            .participants
            .iter()
            .all(|participant| participant.person.as_slice().len() <= MAX_PERSON);
        if self.version == POLICY_VERSION
            && self.roles.len() <= MAX_ROLES
            && self.participants.len() <= MAX_PARTICIPANTS
            && ordered_roles
            && ordered_participants
            && sound_roles
            && known_roles
            && bounded_people
            && self.profile.as_slice().len() <= MAX_PROFILE
        {
            Ok(())
        } else {
            Err(PolicyError::Malformed)
        }
    }

    fn role(&self, number: u8) -> Option<&Role> {
        let at = self
            .roles
            .binary_search_by_key(&number, |role| role.number)
            .ok()?;
        self.roles.get(at)
    }

    /// The listing of a user, if there is one.
    #[must_use]
    pub fn participant(&self, user_pseudonym: &[u8]) -> Option<&Participant> {
        let at = self
            .participants
            .binary_search_by(|participant| {
                participant.user_pseudonym.as_slice().cmp(user_pseudonym)
            })
            .ok()?;
        self.participants.get(at)
    }

    /// Role and standing of a user.
    #[must_use]
    pub fn standing(&self, user_pseudonym: &[u8]) -> (u8, Standing) {
        self.participant(user_pseudonym)
            .map_or((self.default_role, Standing::Active), |participant| {
                (participant.role, participant.standing)
            })
    }

    /// What the role of a user allows, whatever its standing.
    fn role_capabilities(&self, user_pseudonym: &[u8]) -> Capabilities {
        self.role(self.standing(user_pseudonym).0)
            .map_or(Capabilities::NONE, |role| role.capabilities)
    }

    /// The capabilities of a user, by role and standing.
    #[must_use]
    pub fn capabilities(&self, user_pseudonym: &[u8]) -> Capabilities {
        let (_, standing) = self.standing(user_pseudonym);
        let role = self.role_capabilities(user_pseudonym);
        match standing {
            Standing::Active => role,
            Standing::Muted => role.without(Capabilities::SEND),
            Standing::Inactive | Standing::Banned => Capabilities::NONE,
        }
    }

    /// Whether a user is kept out.
    #[must_use]
    pub fn bans(&self, user_pseudonym: &[u8]) -> bool {
        self.standing(user_pseudonym).1 == Standing::Banned
    }

    /// The same policy with a user's role and standing set; who it is stays as it was.
    #[must_use]
    pub fn with(&self, user_pseudonym: &[u8], role: u8, standing: Standing) -> Self {
        let person = self
            .participant(user_pseudonym)
            .map_or(&[][..], |participant| participant.person.as_slice());
        self.with_person(user_pseudonym, role, standing, person)
    }

    /// As [`GroupPolicy::with`], and says who it is.
    #[must_use]
    pub fn with_person(
        &self,
        user_pseudonym: &[u8],
        role: u8,
        standing: Standing,
        person: &[u8],
    ) -> Self {
        let mut next = self.clone();
        next.participants
            .retain(|participant| participant.user_pseudonym.as_slice() != user_pseudonym);
        if (role, standing) != (self.default_role, Standing::Active) {
            let at = next.participants.partition_point(|participant| {
                participant.user_pseudonym.as_slice() < user_pseudonym
            });
            next.participants.insert(
                at,
                Participant {
                    user_pseudonym: VLBytes::new(user_pseudonym.to_vec()),
                    role,
                    standing,
                    person: VLBytes::new(person.to_vec()),
                },
            );
        }
        next
    }

    /// Judges a change by `actor` in a group of `members` (user pseudonyms): who may set roles
    /// cannot give, or take from others, what he does not have himself, and somebody must remain
    /// who may. A role that its holder cannot use now, being away or banned, is the holder's all
    /// the same. The profile is changed by who may do that, and by nobody else.
    ///
    /// # Errors
    /// [`PolicyError`].
    pub fn check_change<'m>(
        &self,
        next: &Self,
        actor: &[u8],
        members: impl Iterator<Item = &'m [u8]> + Clone,
    ) -> Result<(), PolicyError> {
        next.check()?;
        let own = self.capabilities(actor);
        if next.profile != self.profile {
            if !own.contain(Capabilities::SET_PROFILE) {
                return Err(PolicyError::NotAllowed);
            }
            if *next == self.with_profile(next.profile.as_slice().to_vec()) {
                return Ok(());
            }
        }
        if !own.contain(Capabilities::SET_ROLE) {
            return Err(PolicyError::NotAllowed);
        }
        for role in next.roles.iter().filter(|role| !self.roles.contains(role)) {
            let before = self
                .role(role.number)
                .map_or(Capabilities::NONE, |role| role.capabilities);
            if !own.contain(role.capabilities.and(before)) {
                return Err(PolicyError::NotAllowed);
            }
        }
        let own_role = self.role_capabilities(actor);
        let overreaches = |pseudonym: &[u8]| {
            let (before, after) = (self.capabilities(pseudonym), next.capabilities(pseudonym));
            let takes_or_gives = before != after && !own.contain(before.and(after));
            let role = self.role_capabilities(pseudonym);
            let next_role = next.role_capabilities(pseudonym);
            let changes =
                (role, self.standing(pseudonym).1) != (next_role, next.standing(pseudonym).1);
            takes_or_gives || (changes && !own_role.contain(role.and(next_role)))
        };
        let mut listed = self.participants.iter().chain(&next.participants);
        if listed.any(|participant| overreaches(participant.user_pseudonym.as_slice()))
            || members.clone().any(overreaches)
        {
            return Err(PolicyError::NotAllowed);
        }
        let mut members = members;
        if members.any(|pseudonym| next.capabilities(pseudonym).contain(Capabilities::SET_ROLE)) {
            Ok(())
        } else {
            Err(PolicyError::NoAdmin)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ALICE: &[u8] = b"alice";
    const BOB: &[u8] = b"bob";
    const CAROL: &[u8] = b"carol";

    fn policy() -> GroupPolicy {
        GroupPolicy::of_creator(VLBytes::new(ALICE.to_vec()))
    }

    fn members() -> impl Iterator<Item = &'static [u8]> + Clone {
        [ALICE, BOB, CAROL].into_iter()
    }

    #[test]
    fn the_creator_may_do_everything_and_others_add_and_send() {
        let policy = policy();
        policy.check().unwrap();
        assert_eq!(policy.capabilities(ALICE), Capabilities::ALL);
        assert_eq!(
            policy.capabilities(BOB),
            Capabilities::ADD.and(Capabilities::SEND)
        );
    }

    #[test]
    fn muted_banned_and_inactive_users_lose_what_their_standing_takes() {
        let policy = policy()
            .with(BOB, GroupPolicy::MEMBER, Standing::Muted)
            .with(CAROL, GroupPolicy::ADMIN, Standing::Banned);
        policy.check().unwrap();
        assert_eq!(policy.capabilities(BOB), Capabilities::ADD);
        assert_eq!(policy.capabilities(CAROL), Capabilities::NONE);
        assert!(policy.bans(CAROL) && !policy.bans(BOB));
    }

    #[test]
    fn who_was_decided_about_stays_known_until_nothing_is_decided_any_more() {
        let banned =
            policy().with_person(BOB, GroupPolicy::MEMBER, Standing::Banned, b"bob, sealed");
        banned.check().unwrap();
        let muted = banned.with(BOB, GroupPolicy::MEMBER, Standing::Muted);
        let person =
            |policy: &GroupPolicy| Some(policy.participant(BOB)?.person.as_slice().to_vec());
        assert_eq!(person(&muted), Some(b"bob, sealed".to_vec()));
        assert_eq!(
            person(&muted.with(BOB, GroupPolicy::MEMBER, Standing::Active)),
            None
        );
        let long = policy().with_person(BOB, 0, Standing::Banned, &[0; MAX_PERSON + 1]);
        assert_eq!(long.check(), Err(PolicyError::Malformed));
    }

    #[test]
    fn a_member_cannot_change_the_policy() {
        let next = policy().with(BOB, GroupPolicy::ADMIN, Standing::Active);
        assert_eq!(
            policy().check_change(&next, BOB, members()),
            Err(PolicyError::NotAllowed)
        );
        assert_eq!(policy().check_change(&next, ALICE, members()), Ok(()));
    }

    #[test]
    fn who_may_set_roles_cannot_give_or_take_what_he_does_not_have() {
        let mut policy = policy();
        policy.roles.push(Role {
            number: 2,
            name: VLBytes::new(b"moderator".to_vec()),
            capabilities: Capabilities::SET_ROLE
                .and(Capabilities::SEND)
                .and(Capabilities::ADD),
        });
        let policy = policy.with(BOB, 2, Standing::Active);
        policy.check().unwrap();
        let raised = policy.with(CAROL, GroupPolicy::ADMIN, Standing::Active);
        let deposed = policy.with(ALICE, GroupPolicy::MEMBER, Standing::Active);
        let muted = policy.with(CAROL, GroupPolicy::MEMBER, Standing::Muted);
        let mut widened = policy.clone();
        if let Some(role) = widened.roles.get_mut(2) {
            role.capabilities = Capabilities::ALL;
        }
        let promoted_himself = policy.with(BOB, GroupPolicy::ADMIN, Standing::Active);
        for refused in [&raised, &deposed, &widened, &promoted_himself] {
            assert_eq!(
                policy.check_change(refused, BOB, members()),
                Err(PolicyError::NotAllowed)
            );
        }
        assert_eq!(policy.check_change(&muted, BOB, members()), Ok(()));
    }

    #[test]
    fn nobody_strips_a_role_that_its_holder_cannot_use_now() {
        let mut policy = policy();
        policy.roles.push(Role {
            number: 2,
            name: VLBytes::new(b"moderator".to_vec()),
            capabilities: Capabilities::ALL.without(Capabilities::DELETE),
        });
        let policy = policy.with(BOB, 2, Standing::Active);
        for standing in [Standing::Inactive, Standing::Banned] {
            let away = policy.with(CAROL, GroupPolicy::ADMIN, standing);
            away.check().unwrap();
            for next in [
                away.with(CAROL, GroupPolicy::MEMBER, standing),
                away.with(CAROL, GroupPolicy::MEMBER, Standing::Active),
                away.with(CAROL, 2, Standing::Banned),
                away.with(CAROL, GroupPolicy::ADMIN, Standing::Muted),
            ] {
                assert_eq!(
                    away.check_change(&next, BOB, members()),
                    Err(PolicyError::NotAllowed)
                );
                assert_eq!(away.check_change(&next, ALICE, members()), Ok(()));
            }
            // The others are his to judge.
            let member = policy.with(CAROL, GroupPolicy::MEMBER, standing);
            let back = member.with(CAROL, GroupPolicy::MEMBER, Standing::Active);
            assert_eq!(member.check_change(&back, BOB, members()), Ok(()));
        }
        // Nor does who is muted give himself his voice back; he may step down.
        let muted = policy.with(BOB, 2, Standing::Muted);
        let heard = muted.with(BOB, 2, Standing::Active);
        let down = muted.with(BOB, GroupPolicy::MEMBER, Standing::Muted);
        assert_eq!(
            muted.check_change(&heard, BOB, members()),
            Err(PolicyError::NotAllowed)
        );
        assert_eq!(muted.check_change(&down, BOB, members()), Ok(()));
    }

    #[test]
    fn the_profile_is_changed_by_who_may_and_opens_no_other_door() {
        let mut policy = policy();
        for (number, capabilities) in [
            (2, Capabilities::SET_PROFILE),
            (3, Capabilities::SET_ROLE.and(Capabilities::SEND)),
        ] {
            policy.roles.push(Role {
                number,
                name: VLBytes::new(Vec::new()),
                capabilities,
            });
        }
        let policy = policy.with(BOB, 2, Standing::Active);
        let policy = policy.with(CAROL, 3, Standing::Active);
        let next = policy.with_profile(b"sealed".to_vec());
        let check = |next: &GroupPolicy, actor| policy.check_change(next, actor, members());
        assert_eq!(check(&next, ALICE), Ok(()));
        assert_eq!(check(&next, BOB), Ok(()));
        assert_eq!(check(&next, CAROL), Err(PolicyError::NotAllowed));
        // With it, or without, Bob changes nothing else.
        let raised = |policy: &GroupPolicy| policy.with(BOB, GroupPolicy::ADMIN, Standing::Active);
        for next in [raised(&next), raised(&policy)] {
            assert_eq!(check(&next, BOB), Err(PolicyError::NotAllowed));
        }
        let muted = next.with(b"dave", GroupPolicy::MEMBER, Standing::Muted);
        assert_eq!(check(&muted, CAROL), Err(PolicyError::NotAllowed));
        assert_eq!(check(&muted, ALICE), Ok(()));
        let long = policy.with_profile(vec![0; MAX_PROFILE + 1]);
        assert_eq!(check(&long, ALICE), Err(PolicyError::Malformed));
    }

    #[test]
    fn the_last_admin_cannot_step_down() {
        let next = policy().with(ALICE, GroupPolicy::MEMBER, Standing::Active);
        assert_eq!(
            policy().check_change(&next, ALICE, members()),
            Err(PolicyError::NoAdmin)
        );
    }

    #[test]
    fn a_change_of_the_default_role_is_a_change_for_every_member() {
        let mut policy = policy();
        policy.roles.push(Role {
            number: 2,
            name: VLBytes::new(b"usher".to_vec()),
            capabilities: Capabilities::SET_ROLE,
        });
        let policy = policy.with(BOB, 2, Standing::Active);
        let mut next = policy.clone();
        next.default_role = GroupPolicy::ADMIN;
        assert_eq!(
            policy.check_change(&next, BOB, members()),
            Err(PolicyError::NotAllowed)
        );
    }

    #[test]
    fn policies_that_say_two_things_are_malformed() {
        let mut twice = policy();
        twice.participants.extend(policy().participants);
        let mut unknown_role = policy();
        unknown_role.default_role = 9;
        let mut unknown_capability = policy();
        if let Some(role) = unknown_capability.roles.first_mut() {
            role.capabilities = Capabilities(1 << 15);
        }
        for policy in [twice, unknown_role, unknown_capability] {
            assert_eq!(policy.check(), Err(PolicyError::Malformed));
        }
    }
}
