// Following a journal on a stream (journals.md, *Following*): one request, and an answer in frames
// of one size that goes on for minutes.

import { Incoming } from "./incoming.ts";
import {
  checkHead,
  Lie,
  readEntry,
  readHead,
  type Segment,
  type Service,
  type Stretch,
} from "./journal.ts";
import { operations, VERSION } from "./requests.ts";
import { decode, Malformed, Writer } from "./tls.ts";

/** What opens a stream: [`Transport`]. */
export interface Streamer {
  stream(path: string, body: Uint8Array): AsyncIterable<Uint8Array>;
}

const GRANULE = 32n;
const LIVE = 1;
const frames = { part: 1, whole: 2, over: 3, behind: 4 } as const;

/** `FollowBegun`, with the largest values that a client goes along with. */
async function readBegun(content: Incoming): Promise<number> {
  const begun = decode(await content.take(12), (reader) => ({
    version: reader.u16(),
    frameLength: reader.u16(),
    beatMs: reader.u32(),
    lastsMs: reader.u32(),
  }));
  const { version, frameLength, beatMs, lastsMs } = begun;
  if (version !== VERSION || frameLength < 512 || beatMs > 60_000 || lastsMs > 900_000) {
    throw new Malformed("a stream that nobody follows");
  }
  return frameLength;
}

/**
 * The stretches of a live stream, each held against its signed end, until the stream is over. The
 * first one begins at a multiple of 32, and each further one where the one before has ended.
 */
export async function* follow(
  streamer: Streamer,
  service: Service,
  at: Segment,
): AsyncGenerator<Stretch> {
  let next = at.next - (at.next % GRANULE);
  const body = new Writer().u16(VERSION).bytes(at.id).u64(next).u8(LIVE).end();
  const content = new Incoming(streamer.stream(operations.followJournal.path, body));
  const frameLength = await readBegun(content);
  let parts = new Writer();
  for (;;) {
    const frame = await content.take(frameLength);
    const [kind, length] = [frame[0], ((frame[1] ?? 0) << 8) | (frame[2] ?? 0)];
    if (kind === frames.over || kind === frames.behind) return;
    if (kind !== frames.part && kind !== frames.whole) throw new Malformed("no known frame");
    if (frame.subarray(3 + length).some((byte) => byte !== 0)) throw new Lie("a frame hides bytes");
    parts.bytes(frame.subarray(3, 3 + length));
    if (kind === frames.part) continue;
    const stretch = decode(parts.end(), (reader): Stretch => ({
      head: readHead(reader),
      step: reader.u32(),
      closed: reader.u8() === 1,
      first: reader.u64(),
      entries: reader.vector(readEntry),
    }));
    parts = new Writer();
    checkHead(service, at.id, stretch.head);
    if (stretch.first !== next) throw new Lie("a stretch that does not go on from the one before");
    next += BigInt(stretch.entries.length);
    yield stretch;
  }
}
