'use strict';

// Loads WebSocket servers and frameworks that share an HTTP server with a broker. They are installed only here; vite is
// that of the repository.

/** Resolves with the exports of a package. */
async function load(name) {
  try {
    return await import(name);
  } catch (error) {
    if (error.code !== 'ERR_MODULE_NOT_FOUND') throw error;
    throw new Error(`${name} is not installed; run: npm run neighbours`, { cause: error });
  }
}

module.exports = load;
