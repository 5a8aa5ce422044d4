//! The client's side of the delivery service: a library that hides tokens, encapsulation, state
//! keys and their rotation, identity links, journals and their order, retries and recovery.
//!
//! A [`Client`] is a handle to one device of one user, kept in a home directory. Every request to
//! the delivery service goes through the relay and the gateway; the token issuer is asked directly.
//! What a call returns is durable.
//!
//! ```no_run
//! use mimimi_client::{Client, Endpoints, Event, Options};
//!
//! # async fn example() -> Result<(), mimimi_client::Error> {
//! let home = std::path::Path::new("/home/alice/.mimimi");
//! let endpoints = Endpoints::from_json(br#"{
//!     "relay": "https://relay.example/", "gateway": "https://gateway.example",
//!     "ohttp_keys": "https://relay.example/ohttp-keys",
//!     "ds": "https://ds.example", "issuer": "https://issuer.example",
//!     "issuer_name": "issuer.example", "token_origin": "ds.example",
//!     "operators": {"relay": "Relays Ltd", "gateway": "Messenger Inc", "issuer": "Tokens SA"}
//! }"#)?;
//! let alice = Client::init(home, &endpoints, "the account token", Options::default()).await?;
//! alice.register_handle("alice").await?;
//! alice.connect("bob").await?;
//!
//! let mut events = alice.event_stream();
//! loop {
//!     let stored = events.next().await?;
//!     match &stored.event {
//!         Event::Connected { name } => {
//!             println!("read this to {name}: {}", alice.safety_number(name)?);
//!             alice.create_group("climbing").await?;
//!             alice.add_to_group("climbing", &[name]).await?;
//!             alice.queue_message("climbing", "Saturday?")?;
//!         }
//!         Event::Message { group, sender, text, .. } => println!("[{group}] {sender}: {text}"),
//!         _ => {}
//!     }
//!     alice.acknowledge(&[stored])?;
//! }
//! # }
//! ```
//!
//! # Calls
//!
//! A client has one thread, with a runtime of its own, that does one call after the other. So a
//! handle works in any executor, and from several tasks at once: while one waits for events another
//! one sends. Calls that are not `async` read or write the database in this thread and never wait
//! for the network.
//!
//! Every future can be dropped at any time. A call that was not begun is taken back; one that was
//! begun is done, and only its answer is lost. When the last handle is dropped, what is under way
//! ends where it stands, as when the process is killed: the next [`Client::open`] goes on with it.
//!
//! # When it reads
//!
//! While there is an [`Events`], a client reads at random times of its own, whether there is news
//! or not ([`Profile`]). Its default hides from the relay who is written to, and takes minutes. An
//! application that shows one conversation follows that ([`Client::bring_to_front`],
//! [`Client::set_profile`] with [`Profile::Live`] or [`Profile::Even`]), and says so to the relay.
//! [`Client::sync`] reads everything at once, which relay and service see.
//!
//! # Files
//!
//! [`Client::upload`] and [`Client::download`] move files beside the calls: messages go on
//! meanwhile. A file is sealed here, in chunks, and lies at the service under a name that follows
//! from a secret in the message alone. Both go on where they were when they are called again.
//!
//! # The outbox
//!
//! [`Client::queue_message`] returns at once with the message's id. The message is on disk then. It
//! is sent in order, group by group, and tried again as long as nobody answers, also after the next
//! start. Its end is told once: [`Event::MessageSent`], or [`Event::MessageFailed`] with a reason.
//! [`Client::send_message`] waits for the end. When it gives up waiting ([`Error::Unreachable`])
//! the message stays in the outbox ([`Client::queued_messages`]). An attempt of which no answer
//! came is posted again as the very same request, which the service carries out once. It is
//! encrypted anew only when the journal shows that it is not there.
//!
//! # What is said
//!
//! A text is a [`Draft`], and so are answers, reactions, edits, deletions and what expires: all go
//! through the outbox. Only who has sent a message can change it, whatever the service or another
//! member does. [`Client::messages`] pages through what was said, as it is now. Receipts are off
//! until [`Client::set_receipts`].
//!
//! # Names and ids
//!
//! A group's name is this device's, and another group of that name gets a number behind it. Groups
//! have a [`GroupId`], messages a [`MessageId`], users a [`UserId`]: these stay. Every call that is
//! about a group takes its id or its name.
//!
//! # Who is at fault
//!
//! Every call returns [`Error`]; [`Error::fault`] says who has to act, [`Error::code`] is stable.
//! After [`Error::Unreachable`] it is not known whether the request had an effect. A commit that
//! was under way is kept with its exact bytes and brought to its end by the next [`Client::sync`].
//!
//! # Tokens
//!
//! What costs something is paid with tokens of which there is a stock. It is filled by
//! [`Client::sync`] when its time has come, never by anything that the user does: an action that
//! finds too few fails with [`IssuerError::WalletEmpty`]. Keep a client running, or call
//! [`Client::sync`] now and then, so that this does not happen; [`Client::fill_wallet`] is for
//! users who cannot wait.
//!
//! # What is kept where
//!
//! `client.sqlite` in the home directory (mode 0600 in a directory of mode 0700) holds everything,
//! private keys and what was said too: protect it like a key. Several processes can use it: a
//! call waits for another one's call, not while that waits for news, and sees what it has changed.
//! [`Client::hold`] keeps the others out for longer.
//!
//! # What it tells
//!
//! Requests, and what fails while nobody waits for it, are told through `tracing`: operations and
//! error codes, and nothing that names a person, a group or a token. [`Options::progress`] hears of
//! calls that wait longer than usual. A call waits for [`Patience::call`] in all.
//!
//! # For tests of the service
//!
//! The feature `test-support` brings calls for requests that are made by hand ([`sign`]), for
//! commits that are kept without being sent, and [`in_process`], which answers in place of all
//! servers.

/// The example of the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// So do those of the guide.
#[cfg(doctest)]
mod guide {
    #[doc = include_str!("../../guide/src/first-message.md")]
    struct FirstMessage;
    #[doc = include_str!("../../guide/src/app.md")]
    struct App;
    #[doc = include_str!("../../guide/src/messages.md")]
    struct Messages;
    #[doc = include_str!("../../guide/src/people.md")]
    struct People;
    #[doc = include_str!("../../guide/src/tokens.md")]
    struct Tokens;
}

mod api;
mod attachment;
mod backup_key;
mod driver;
mod encoding;
mod endpoints;
mod engine;
mod envelope;
mod error;
mod filling;
mod flows;
mod group_profile;
mod history_file;
#[cfg_attr(target_arch = "wasm32", path = "home_in_browser.rs")]
mod home;
mod ids;
pub mod in_process;
pub mod issuance;
mod key_view;
mod leaf;
mod message;
mod mls;
mod net;
mod options;
mod outcomes;
mod purse;
mod push_address;
mod remote_file;
mod runtime;
#[cfg(feature = "test-support")]
pub mod slots;
#[cfg(not(feature = "test-support"))]
mod slots;
mod store;
mod sync_message;
pub mod text;
#[cfg(test)]
mod vectors;
mod views;

pub use api::{Client, Events};
pub use attachment::{Attachment, MAX_THUMBNAIL, Thumbnail};
pub use backup_key::{BackupKey, new_recovery_key};
pub use crypto::CryptoError;
pub use endpoints::{Endpoints, Operators, PushEndpoint};
pub use envelope::sign;
pub use error::{
    AttachmentError, DatabaseError, DirectoryError, Error, Fault, FileError, IssuerError,
    LocalError, NoAnswer, PeerError, PushRefusal, Refusal, UsageError,
};
pub use flows::attachments::TransferProgress;
pub use flows::devices::LinkCode;
pub use flows::history::{HistoryScope, ImportedHistory};
pub use flows::view::{GroupAccess, GroupSummary, Member};
pub use group_profile::{GroupProfile, MAX_DESCRIPTION, MAX_PICTURE, Picture};
pub use home::Held;
pub use ids::{GroupId, GroupRef, MessageId, UserId};
pub use in_process::SharedService;
pub use key_view::KeyView;
pub use message::{Draft, Expiry, MessageDetails, TextFormat};
pub use net::clock::{Clock, SharedClock, SystemClock};
pub use net::transport::{Patience, Progress, Waiting};
pub use options::{Options, PendingRequest};
pub use outcomes::{CommitOutcome, RemovalReason, StopReason};
pub use protocol::policy::PolicyError;
pub use protocol::problem::ProblemType;
pub use protocol::reporting::ReportReason;
pub use push_address::{PushAddress, PushConsent};
pub use remote_file::{Transferred, UploadOptions};
pub use slots::{Bundle, Profile};
pub use store::connections::IncomingRequest;
pub use store::contacts::Contact;
pub use store::devices::Device;
pub use store::events::{Event, StoreChange, StoredEvent};
pub use store::evidence::Evidence;
pub use store::messages::{Gone, Message, MessageState, Reaction};
pub use store::outbox::QueuedMessage;
pub use store::receipts::{Receipt, Receipts};
pub use store::reporting::RequestPolicy;
pub use text::MAX_TEXT;
pub use views::Pace;
