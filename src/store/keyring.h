/* store/keyring.h - the master keys, and sealing under them.
 *
 * A key is 32 random bytes, written as 64 hexadecimal digits; a keyring is text with one or more of them, apart by
 * white space ("openssl rand -hex 32" makes a good file). The first one seals, all of them open, which is how a key is
 * replaced: the new one goes in front, everything is sealed again, the old one goes. A key's id is derived from the
 * key, so that a sealed row can name its key without telling anything about it, and a wrong key is known as such.
 *
 * Sealed bytes are a random nonce (12), the ciphertext and the tag (16) of AES-256-GCM. The context (whose secret this
 * is and what it is called) is authenticated with them: a row that is copied to another place does not open there. */
#pragma once

#include "os/secret.h"

struct keyring;

#define KEYRING_ID_BYTES 17 /* 16 hexadecimal digits and NUL */
enum { KEYRING_KEYS_MAX = 16 };

/* `name` is for messages. ERR_INPUT when the text is not a keyring. */
struct keyring *keyring_parse(struct str text, const char *name, struct err *err);
/* From a file that its owner alone may read. Without one: a new key is made there when may_make (the folder too), else
 * ERR_NOT_FOUND. Several processes may do this at once; they end up with the same key. */
struct keyring *keyring_open_file(const char *path, bool may_make, struct err *err);
void keyring_free(struct keyring *keyring); /* erases; NULL is fine */

/* A new key in front of those that the file has, durable; then the first key alone. */
bool keyring_file_add_key(const char *path, struct err *err);
bool keyring_file_keep_first(const char *path, struct err *err);

size_t keyring_key_count(const struct keyring *keyring);
const char *keyring_sealing_id(const struct keyring *keyring);
bool keyring_has(const struct keyring *keyring, const char *id);

/* Appends to `sealed`. */
void keyring_seal(const struct keyring *keyring, struct str context, struct str plain, struct strbuf *sealed);
/* ERR_AUTH when the key is not here or the bytes were not sealed under it in this context. */
bool keyring_unseal(const struct keyring *keyring, const char *key_id, struct str context, struct str sealed,
                    struct secret *plain, struct err *err);
