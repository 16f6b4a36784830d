/** Conversations in the browser's IndexedDB, by id. */

const NAME = "edge-llava";
const STORE = "chats";

/**
 * Runs `work` with the object store in a transaction: all of it is written, or nothing. Returns what `work` resolves
 * to; throws a DOMException.
 */
export async function useDatabase(mode, work) {
  const opening = indexedDB.open(NAME, 1);
  opening.onupgradeneeded = () => opening.result.createObjectStore(STORE, { keyPath: "id" });
  const database = await got(opening);
  try {
    const transaction = database.transaction(STORE, mode);
    const over = new Promise((resolve, reject) => {
      transaction.oncomplete = resolve;
      transaction.onabort = () => reject(transaction.error);
    });
    const [result] = await Promise.all([work(transaction.objectStore(STORE)), over]);
    return result;
  } finally {
    database.close();
  }
}

/** Resolves to what a request of IndexedDB returns. */
export function got(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
