// How many pixels a picture has, by its first bytes: a small file can unpack into gigabytes.

const MOST_PIXELS = 4_000_000;

/** The media type of a picture that may be decoded, or null. What its sender says is not asked. */
export function safePicture(bytes: Uint8Array): string | null {
  const found = png(bytes) ?? jpeg(bytes) ?? webp(bytes);
  if (found === null || found.width < 1 || found.height < 1) return null;
  return found.width * found.height <= MOST_PIXELS ? found.type : null;
}

type Found = { type: string; width: number; height: number };

const view = (bytes: Uint8Array): DataView =>
  new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
const ascii = (bytes: Uint8Array, at: number, length: number): string =>
  String.fromCharCode(...bytes.subarray(at, at + length));

function png(bytes: Uint8Array): Found | null {
  if (bytes.length < 24 || ascii(bytes, 0, 8) !== "\x89PNG\r\n\x1a\n") return null;
  if (ascii(bytes, 12, 4) !== "IHDR") return null;
  const data = view(bytes);
  return { type: "image/png", width: data.getUint32(16), height: data.getUint32(20) };
}

function jpeg(bytes: Uint8Array): Found | null {
  if (bytes[0] !== 0xff || bytes[1] !== 0xd8) return null;
  const data = view(bytes);
  for (let at = 2; at + 9 <= bytes.length; ) {
    if (bytes[at] !== 0xff) return null;
    const kind = bytes[at + 1] ?? 0;
    const isFrame = kind >= 0xc0 && kind <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(kind);
    if (isFrame) {
      return { type: "image/jpeg", height: data.getUint16(at + 5), width: data.getUint16(at + 7) };
    }
    at += 2 + data.getUint16(at + 2);
  }
  return null;
}

function webp(bytes: Uint8Array): Found | null {
  if (bytes.length < 30 || ascii(bytes, 0, 4) !== "RIFF" || ascii(bytes, 8, 4) !== "WEBP") return null;
  const data = view(bytes);
  const of = (width: number, height: number): Found => ({ type: "image/webp", width, height });
  switch (ascii(bytes, 12, 4)) {
    case "VP8 ":
      return of(data.getUint16(26, true) & 0x3fff, data.getUint16(28, true) & 0x3fff);
    case "VP8L": {
      const bits = data.getUint32(21, true);
      return of((bits & 0x3fff) + 1, ((bits >> 14) & 0x3fff) + 1);
    }
    // Extended files, which can be animated: not what a thumbnail is.
    default:
      return null;
  }
}
