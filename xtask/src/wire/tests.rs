use std::path::Path;

use super::source::Sources;
use super::{Placed, filled, print};

const SOURCE: &str = r#"
    /// Most of them.
    pub const MOST: usize = 2 * 1024;
    const LENGTH: usize = 4;
    /// Bytes of one length.
    pub type Handle = [u8; LENGTH];

    fixed_ids! {
        /// Names it.
        Id(16);
    }

    /// A choice; see [`Thing`] and [`crate::other::MORE`].
    #[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
    #[repr(u8)]
    pub enum Choice {
        /// This.
        #[tls_codec(discriminant = 1)]
        ThisOne(Id),
        /// That.
        #[tls_codec(discriminant = 7)]
        That,
        #[tls_codec(discriminant = 8)]
        Bytes(VLBytes),
    }

    #[derive(TlsSize, TlsSerialize)]
    pub struct Thing<'a> {
        /// At most [`MOST`].
        pub number: u16,
        pub bytes: &'a VLBytes,
        pub secret: WireSecret,
        pub hash: [u8; LENGTH * 8],
        pub things: Vec<Choice>,
        pub handles: Vec<Handle>,
        pub texts: Vec<VLBytes>,
        pub maybe: Option<Id>,
        pub slot: Padded<MOST>,
    }

    /// Not of the wire.
    #[derive(Debug)]
    pub struct Other {
        pub field: std::collections::HashMap<u8, u8>,
    }

    pub const BY_HAND_PRESENTATION: &str = "struct { uint8 kind; } ByHand;";
"#;

fn sources(text: &str) -> Sources {
    let mut sources = Sources::default();
    sources
        .file("protocol/src/other.rs", "pub const MORE: u32 = 70_000;")
        .unwrap();
    sources.file("protocol/src/thing.rs", text).unwrap();
    sources
}

#[test]
fn types_are_described_as_their_codecs_write_them() {
    let sources = sources(SOURCE);
    let names: Vec<_> = sources.names().collect();
    assert_eq!(names, ["ByHand", "Choice", "Handle", "Id", "Thing"]);
    let print = |name| print::structure(&sources, name).unwrap();
    assert_eq!(print("ByHand"), "struct { uint8 kind; } ByHand;");
    assert_eq!(
        print("Id"),
        "opaque Id[16];                      // Names it"
    );
    assert_eq!(
        print("Thing"),
        "struct {
    uint16 number;                  // At most 2,048
    opaque bytes<V>;
    opaque secret[32];
    opaque hash[32];
    Choice things<V>;
    Handle handles<V>;
    Bytes texts<V>;
    optional<Id> maybe;
    Padded<2048> slot;
} Thing;"
    );
    assert_eq!(
        print("Choice"),
        "// A choice; see Thing and 70,000.
enum {
    this_one(1),                    // This
    that(7),                        // That
    bytes(8),
    (255)
} ChoiceType;
struct {
    ChoiceType type;
    select (Choice.type) {
        case this_one: Id this_one;
        case that: struct {};
        case bytes: opaque bytes<V>;
    };
} Choice;"
    );
}

#[test]
fn what_has_no_description_is_refused() {
    let sources = sources("#[derive(TlsSerialize)] struct Thing { field: HashMap<u8, u8> }");
    assert!(print::structure(&sources, "Thing").is_err());
    assert!(print::structure(&sources, "Other").is_err());
}

#[test]
fn a_name_stands_for_one_structure() {
    let twice = "#[derive(TlsSerialize)] struct A { a: u8 } mod x {} ";
    let mut sources = sources(twice);
    assert!(sources.file("client/src/a.rs", twice).is_err());
}

#[test]
fn a_block_is_written_anew_and_a_structure_stands_in_one() {
    let sources = sources("#[derive(TlsSerialize)] struct A { a: u8 }");
    let fill =
        |text: &str, placed: &mut Placed| filled(text, Path::new("docs/x.md"), &sources, placed);
    let right = "# X\n<!-- wire: A -->\n```text\nstruct {\n    uint8 a;\n} A;\n```\nend\n";
    let wrong = right.replace("uint8", "uint16");
    for text in [right, &wrong] {
        let mut placed = Placed::default();
        assert_eq!(fill(text, &mut placed).unwrap(), right);
        assert!(fill(text, &mut placed).is_err());
    }
    let unknown = right.replace("wire: A", "wire: B");
    assert!(fill(&unknown, &mut Placed::default()).is_err());
}
