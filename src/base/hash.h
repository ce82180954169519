/* base/hash.h - SHA-256, and MD5 and SHA-1 where a protocol asks for them (OpenSSL's); CRC-32C; bytes as text. */
#pragma once

#include "base/str.h"

/* OpenSSL takes its memory like the rest of the program from now on: a lack of it ends the process with a clear line,
 * where OpenSSL 3.0 would read through a null pointer. Before any other use of it. */
void hash_own_memory(void);

struct sha256 {
    void *state; /* EVP_MD_CTX */
};
void sha256_begin(struct sha256 *hash);
void sha256_add(struct sha256 *hash, const void *at, size_t len);
void sha256_end(struct sha256 *hash, uint8_t digest[32]); /* frees; also for giving up */
void sha256_end_hex(struct sha256 *hash, char hex[65]); /* the same, as hex_encode writes it */
void sha256_of(struct str bytes, uint8_t digest[32]);
void sha256_hex(struct str bytes, char hex[65]);

struct md5 {
    void *state; /* EVP_MD_CTX */
};
void md5_begin(struct md5 *hash);
void md5_add(struct md5 *hash, const void *at, size_t len);
void md5_end(struct md5 *hash, char hex[33]); /* frees; hex NULL: giving up; twice is fine */

/* RFC 2104 with SHA-256. */
void hmac_sha256(struct str key, struct str message, uint8_t digest[32]);

/* What git calls a file of this content: SHA-1 of "blob LENGTH", NUL and the bytes. */
void git_blob_hex(struct str content, char hex[41]);

/* CRC-32C (Castagnoli): a checksum against accidents, not a hash. */
uint32_t crc32c_of(const void *at, size_t len);

/* Lower-case hexadecimal, NUL-terminated: out holds 2·len+1. */
void hex_encode(const uint8_t *bytes, size_t len, char *out);
/* Appends RFC 4648's base64 with padding. */
void base64_encode(const void *bytes, size_t len, struct strbuf *out);
/* Appends what was encoded so; false for any other text. */
bool base64_decode(struct str text, struct strbuf *out);
