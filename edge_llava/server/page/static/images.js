/** Images on their way to the server: upright, and no larger than the model can see. */

const LONG_SIDE = 1344; // pixels: LLaVA-1.6 looks at four tiles of 336 at most, LLaVA-1.5 at one
const QUALITY = 0.92;
const SENDABLE = /^image\/(jpeg|png|webp|gif|bmp)$/; // sent byte for byte; others become JPEG

/**
 * Reads a File as {name, url}; the url is a data: URL that is shown and sent. A file that is small enough is kept byte
 * for byte. Throws an Error whose message is for the user.
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
  const url = scale >= 1 && SENDABLE.test(file.type) ? await toDataUrl(file) : draw(bitmap, Math.min(scale, 1));
  bitmap.close();
  return { name, url };
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
  return canvas.toDataURL("image/jpeg", QUALITY);
}

function toDataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error(`“${file.name}” can no longer be read.`));
    reader.readAsDataURL(file);
  });
}
