// Small pictures, made here: what is sent along holds nothing of the file but what is seen.

const PICTURE = /^image\/(png|jpeg|webp)$/;

async function shrink(file: Blob, side: number, most: number): Promise<{ mediaType: string; content: Uint8Array } | null> {
  if (!PICTURE.test(file.type)) return null;
  const bitmap = await createImageBitmap(file).catch(() => null);
  if (bitmap === null) return null;
  for (let edge = side; edge >= 24; edge = Math.floor(edge * 0.7)) {
    const scale = Math.min(1, edge / Math.max(bitmap.width, bitmap.height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(bitmap.width * scale));
    canvas.height = Math.max(1, Math.round(bitmap.height * scale));
    canvas.getContext("2d")?.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    for (const quality of [0.8, 0.6, 0.4]) {
      const blob = await new Promise<Blob | null>((done) => canvas.toBlob(done, "image/jpeg", quality));
      if (blob !== null && blob.size <= most) {
        return { mediaType: "image/jpeg", content: new Uint8Array(await blob.arrayBuffer()) };
      }
    }
  }
  return null;
}

/** Goes with a message: at most 16,384 bytes. */
export const thumbnailOf = (file: Blob) => shrink(file, 320, 16_384);

/** A group's picture: at most 4,096 bytes. */
export async function groupPicture(file: Blob): Promise<{ mediaType: string; image: Uint8Array } | null> {
  const made = await shrink(file, 128, 4_096);
  return made === null ? null : { mediaType: made.mediaType, image: made.content };
}
