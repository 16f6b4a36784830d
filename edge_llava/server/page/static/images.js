/** Images on their way to the server: upright, and no larger than the model can see. */

const LONG_SIDE = 1344; // pixels: LLaVA-1.6 looks at four tiles of 336 at most, LLaVA-1.5 at one
const QUALITY = 0.92;
const THUMBNAIL = 96; // pixels
const SENDABLE = /^image\/(jpeg|png|webp|gif|bmp)$/; // sent byte for byte; others become JPEG

/**
 * Reads a File as {name, blob, url}; the url is a data: URL of the blob that is shown and sent. A file that is small
 * enough is kept byte for byte. Throws an Error whose message is for the user.
 */
export async function readImage(file) {
  const name = file.name || "image";
  let bitmap;
  try {
    bitmap = await createImageBitmap(file); // upright: this applies the EXIF orientation
  } catch {
    throw new Error(`“${name}” is not an image that this browser can read.`);
  }
  const scale = LONG_SIDE / Math.max(bitmap.width, bitmap.height);
  const blob = await (scale >= 1 && SENDABLE.test(file.type) ? copy(file) : draw(bitmap, Math.min(scale, 1)));
  bitmap.close();
  return { name, blob, url: await toDataUrl(blob) };
}

/** A small JPEG of an image. */
export async function shrink(blob) {
  const bitmap = await createImageBitmap(blob);
  return draw(bitmap, Math.min(1, THUMBNAIL / Math.min(bitmap.width, bitmap.height)));
}

/** The files among what was dropped or pasted that may be images. */
export function imagesOf(data) {
  return [...data.files].filter((file) => file.type === "" || file.type.startsWith("image/"));
}

function draw(bitmap, scale) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff"; // behind what is transparent: JPEG has no alpha
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", QUALITY));
}

/** The file itself may change or vanish. */
async function copy(file) {
  try {
    return new Blob([await file.arrayBuffer()], { type: file.type });
  } catch {
    throw new Error(`“${file.name}” can no longer be read.`);
  }
}

export function toDataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}
