/** Takes a photo: with the phone's own camera app, or from a live view where the browser allows one. */

const FACING_AWAY = { video: { facingMode: "environment", width: { ideal: 1920 } } };

export class Camera {
  /** dialog: the live view; input: opens a phone's camera app. */
  constructor(dialog, input) {
    this.dialog = dialog;
    this.input = input;
    this.video = dialog.querySelector("video");
    dialog.querySelector("[data-shutter]").addEventListener("click", () => this.#shoot());
    dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => this.#release());
  }

  /** Whether there is any way to take a photo. */
  static get isThere() {
    return isHandheld() || Boolean(navigator.mediaDevices?.getUserMedia); // the latter on https and localhost only
  }

  /** `onImage` gets a File once the shutter is pressed. Throws an Error whose message is for the user. */
  async open(onImage) {
    this.onImage = onImage;
    if (isHandheld()) {
      this.input.click();
      return;
    }
    try {
      this.video.srcObject = await navigator.mediaDevices.getUserMedia(FACING_AWAY);
    } catch (error) {
      throw new Error(EXPLAINED[error.name] ?? "The camera cannot be used.");
    }
    this.dialog.showModal();
    await this.video.play();
  }

  #shoot() {
    const canvas = document.createElement("canvas");
    canvas.width = this.video.videoWidth;
    canvas.height = this.video.videoHeight;
    canvas.getContext("2d").drawImage(this.video, 0, 0);
    canvas.toBlob((blob) => this.onImage(new File([blob], "photo.jpg", { type: blob.type })), "image/jpeg", 0.95);
    this.dialog.close();
  }

  #release() {
    this.video.srcObject?.getTracks().forEach((track) => track.stop());
    this.video.srcObject = null;
  }
}

const EXPLAINED = {
  NotAllowedError: "The browser may not use the camera. Allow it in the address bar, or choose a file.",
  NotFoundError: "There is no camera on this device.",
};

/** Whether this is a phone or a tablet: fingers, a keyboard on the screen, a camera app. */
export function isHandheld() {
  return matchMedia("(pointer: coarse)").matches;
}
