/* os/secret.h - bytes that must not be seen: tokens, passwords, keys.
 *
 * A secret lies in pages of its own, which are left out of core dumps, are locked into memory as far as the limit
 * allows, and are zero in a forked child. The struct holds no text, so nothing can print it by mistake:
 * secret_reveal is the one way to the bytes, and whoever calls it uses them and keeps no copy. What a secret was made
 * from is the caller's to erase.
 *
 *     struct secret token = {0};
 *     secret_set(&token, given);
 *     memory_erase(given.at, given.len);
 *     …
 *     secret_wipe(&token); */
#pragma once

#include "base/err.h"
#include "base/str.h"

struct secret {
    struct secret_pages *pages; /* NULL: none */
};

/* A copy, which replaces what was there. An empty one is a secret, too. */
void secret_set(struct secret *secret, struct str bytes);
/* Up to bytes_max from the descriptor to its end, without white space at the end. ERR_LIMIT beyond. */
bool secret_read_fd(struct secret *secret, int fd, size_t bytes_max, const char *name, struct err *err);
bool secret_is_set(const struct secret *secret);
/* The bytes, NUL-terminated; valid until the secret changes. Empty when there is none. */
struct str secret_reveal(const struct secret *secret);
/* The last four characters when it is printable ASCII of at least 16, so that they tell little; otherwise "". */
void secret_last4(const struct secret *secret, char out[5]);
/* Zeroes and returns the pages; a zeroed struct is fine. */
void secret_wipe(struct secret *secret);

/* Zeroes memory although nothing reads it afterwards. */
void memory_erase(const void *at, size_t bytes);
