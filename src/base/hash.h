/* base/hash.h - SHA-256 (OpenSSL's). */
#pragma once

#include "base/str.h"

struct sha256 {
    void *state; /* EVP_MD_CTX */
};
void sha256_begin(struct sha256 *hash);
void sha256_add(struct sha256 *hash, const void *at, size_t len);
void sha256_end(struct sha256 *hash, uint8_t digest[32]); /* frees; also for giving up */
void sha256_end_hex(struct sha256 *hash, char hex[65]); /* the same, as hex_encode writes it */
void sha256_of(struct str bytes, uint8_t digest[32]);
void sha256_hex(struct str bytes, char hex[65]);

/* Lower-case hexadecimal, NUL-terminated: out holds 2·len+1. */
void hex_encode(const uint8_t *bytes, size_t len, char *out);
