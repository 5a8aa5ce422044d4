//! Join codes: whoever has one comes in by itself, without being a contact of anybody.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use crypto::credential::random_pseudonym;
use crypto::keys::{IdentityLinkWrapperKey, RecoverySecret};
use protocol::codec::{WireSecret, opaque};
use protocol::next::group::{Accepted, GroupKind, JoinPermit, SetJoinCodeRequest};
use protocol::next::ids::GroupId;
use protocol::policy::Capabilities;
use protocol::problem::ProblemType;
use protocol::time::day_of;
use protocol::Wire as _;
use protocol::next::operation::Operation;
use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize, VLBytes};
use zeroize::Zeroizing;

use crate::Client;
use crate::error::{Error, UsageError};
use crate::groups::authenticate::Sight;
use crate::groups::policy::{capabilities, policy_in};
use crate::groups::external::Entrance;
use crate::groups::{Group, Status, free_name, known, load_mls, own_pseudonym};
use crate::leaf::{self, NewLeaf};

const VERSION: u16 = 1;
/// The state key may change between the look-up and the commit.
const ROUNDS: u32 = 3;

/// What a join code says, in base64url.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct JoinCode {
    version: u16,
    group_id: GroupId,
    ciphersuite: u16,
    /// Finds and opens the recovery record with the state key, and lets its holder in.
    secret: WireSecret,
    wrapper_key: WireSecret,
    /// In which it was made: whoever comes in by it is shown nothing older.
    epoch: u64,
    /// UTF-8; may be empty.
    group_name: VLBytes,
}

impl JoinCode {
    fn print(&self) -> String {
        URL_SAFE_NO_PAD.encode(&*Zeroizing::new(self.encode()))
    }

    fn parse(code: &str) -> Result<Self, UsageError> {
        let bytes = URL_SAFE_NO_PAD
            .decode(code.trim())
            .map(Zeroizing::new)
            .map_err(|_| UsageError::InvalidJoinCode)?;
        Self::decode(&bytes)
            .ok()
            .filter(|code| code.version == VERSION)
            .ok_or(UsageError::InvalidJoinCode)
    }
}

impl Client {
    /// Makes a join code that is good for so many days (at most a year). It is a secret: whoever has it can come in
    /// until then, or until it is revoked.
    ///
    /// # Errors
    /// [`UsageError::NotPermitted`]; the problem `limit-exceeded` when there are too many codes.
    pub async fn invite(&mut self, group: &str, days: u32) -> Result<String, Error> {
        let _held = self.hold().await?;
        self.sync(0).await?;
        let group = Group::usable(&self.db, group)?;
        let mls_group = load_mls(&self.db, &group.id)?;
        let policy = policy_in(mls_group.extensions())?;
        let may = capabilities(policy.as_ref(), &own_pseudonym(&mls_group)?);
        if !may.contain(Capabilities::ADD) {
            return Err(UsageError::NotPermitted.into());
        }
        let secret = RecoverySecret::random()?;
        let code = JoinCode {
            version: VERSION,
            group_id: group.id,
            ciphersuite: u16::from(mls_group.ciphersuite()),
            secret: secret.to_wire(),
            wrapper_key: group.wrapper_key.to_wire(),
            epoch: mls_group.epoch().as_u64(),
            group_name: opaque(group.display_name().as_bytes()),
        };
        let last_day = day_of(self.transport.time.now_unix_ms()).saturating_add(days.max(1));
        self.set_join_code(&group.id, &secret, last_day).await?;
        Ok(code.print())
    }

    /// Revokes a join code of a group that this client is in.
    ///
    /// # Errors
    /// [`UsageError::InvalidJoinCode`], [`UsageError::NotAMember`].
    pub async fn revoke_invitation(&mut self, code: &str) -> Result<(), Error> {
        let _held = self.hold().await?;
        let code = JoinCode::parse(code)?;
        self.sync(0).await?;
        let group = Group::find(&self.db, &code.group_id)?
            .ok_or_else(|| UsageError::NotAMember(shown(&code)))?;
        group.check_usable()?;
        let secret = RecoverySecret::from(&code.secret);
        self.set_join_code(&group.id, &secret, 0).await
    }

    async fn set_join_code(
        &mut self,
        id: &GroupId,
        secret: &RecoverySecret,
        expiry_day: u32,
    ) -> Result<(), Error> {
        let _: Accepted = self
            .as_member(id, Operation::SetJoinCode, |_, group| {
                let request = SetJoinCodeRequest {
                    group_id: group.id,
                    state_key: group.state_key.to_wire(),
                    secret: secret.to_wire(),
                    expiry_day,
                };
                Ok(request.encode())
            })
            .await?;
        Ok(())
    }

    /// Comes into a group by a join code and returns the name that it has here.
    ///
    /// # Errors
    /// [`UsageError::InvalidJoinCode`], [`UsageError::JoinCodeExpired`], [`UsageError::AlreadyAMember`].
    pub async fn join_by_code(&mut self, code: &str) -> Result<String, Error> {
        let _held = self.hold().await?;
        let code = JoinCode::parse(code)?;
        let suite = leaf::ciphersuite(code.ciphersuite)
            .ok_or(UsageError::UnknownCiphersuite(code.ciphersuite))?;
        self.profile.credential()?;
        self.sync(0).await?;
        let id = code.group_id;
        let former = Group::find(&self.db, &id)?;
        let name = match &former {
            Some(group) if group.kind != GroupKind::Group => {
                return Err(UsageError::InvalidJoinCode.into());
            }
            Some(group) if matches!(group.status, Status::Active | Status::Joining) => {
                let own = self.profile.handle.clone().unwrap_or_default();
                return Err(UsageError::AlreadyAMember(own).into());
            }
            Some(Group {
                name: Some(name), ..
            }) => name.clone(),
            _ => free_name(&self.db, &shown(&code))?,
        };
        let directory = self.directory().await?;
        for _ in 0..ROUNDS {
            let secret = RecoverySecret::from(&code.secret);
            let state_key = self
                .recovered_key(&id, &secret)
                .await?
                .ok_or(UsageError::JoinCodeExpired)?;
            let pseudonym = random_pseudonym(&directory.domain)?;
            let entrance = Entrance {
                id,
                kind: GroupKind::Group,
                name: Some(name.clone()),
                state_key,
                wrapper_key: IdentityLinkWrapperKey::from(&code.wrapper_key),
                recovery_secret: RecoverySecret::random()?,
                leaf: NewLeaf::of_user(&self.profile, &directory, suite, pseudonym)?,
                permit: JoinPermit::JoinCode(WireSecret::new(*code.secret.expose())),
                sight: Sight::Code {
                    epoch: code.epoch,
                    known: known::of(&self.db, &id)?,
                },
            };
            match self.enter(&entrance).await {
                Ok(()) => return Ok(name),
                // It has rotated meanwhile.
                Err(Error::Refused(refusal)) if refusal.problem == ProblemType::UnknownGroup => {}
                Err(Error::Refused(refusal)) if refusal.problem == ProblemType::NotAllowed => {
                    return Err(UsageError::JoinCodeExpired.into());
                }
                Err(error) => return Err(error),
            }
        }
        Err(UsageError::JoinCodeExpired.into())
    }
}

fn shown(code: &JoinCode) -> String {
    String::from_utf8_lossy(code.group_name.as_slice()).into_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn code() -> JoinCode {
        JoinCode {
            version: VERSION,
            group_id: GroupId([1; 16]),
            ciphersuite: 1,
            secret: WireSecret::new([2; 32]),
            wrapper_key: WireSecret::new([3; 32]),
            epoch: 4,
            group_name: opaque(*b"team"),
        }
    }

    #[test]
    fn a_join_code_is_read_as_it_was_printed() {
        let read = JoinCode::parse(&format!(" {}\n", code().print())).unwrap();
        assert_eq!(read.encode(), code().encode());
    }

    #[test]
    fn a_code_of_a_later_version_or_with_more_behind_it_is_refused() {
        let later = JoinCode {
            version: VERSION + 1,
            ..code()
        };
        let longer = format!("{}AA", code().print());
        for code in [later.print(), longer, String::new()] {
            assert_eq!(
                JoinCode::parse(&code).unwrap_err(),
                UsageError::InvalidJoinCode
            );
        }
    }
}
