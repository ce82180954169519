#include "base/hash.h"
#include "base/arena.h"
#include "base/err.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>

/* Memory is all that OpenSSL can lack here. */
static void must(bool ok)
{
    if (!ok)
        die("out of memory: a hash could not be computed");
}

static void *take(size_t bytes, const char *file, int line)
{
    return mem_alloc(bytes);
}

static void *resize(void *at, size_t bytes, const char *file, int line)
{
    if (bytes > 0)
        return mem_resize(at, bytes);
    free(at);
    return NULL;
}

static void give(void *at, const char *file, int line)
{
    free(at);
}

void hash_own_memory(void)
{
    CRYPTO_set_mem_functions(take, resize, give);
}

void sha256_begin(struct sha256 *hash)
{
    hash->state = EVP_MD_CTX_new();
    must(hash->state && EVP_DigestInit_ex(hash->state, EVP_sha256(), NULL) == 1);
}

void sha256_add(struct sha256 *hash, const void *at, size_t len)
{
    must(EVP_DigestUpdate(hash->state, at, len) == 1);
}

void sha256_end(struct sha256 *hash, uint8_t digest[32])
{
    must(EVP_DigestFinal_ex(hash->state, digest, NULL) == 1);
    EVP_MD_CTX_free(hash->state);
    hash->state = NULL;
}

void sha256_end_hex(struct sha256 *hash, char hex[65])
{
    uint8_t digest[32];

    sha256_end(hash, digest);
    hex_encode(digest, sizeof digest, hex);
}

void sha256_of(struct str bytes, uint8_t digest[32])
{
    struct sha256 hash;

    sha256_begin(&hash);
    sha256_add(&hash, bytes.at, bytes.len);
    sha256_end(&hash, digest);
}

void sha256_hex(struct str bytes, char hex[65])
{
    struct sha256 hash;

    sha256_begin(&hash);
    sha256_add(&hash, bytes.at, bytes.len);
    sha256_end_hex(&hash, hex);
}

void hmac_sha256(struct str key, struct str message, uint8_t digest[32])
{
    must(HMAC(EVP_sha256(), key.at, (int)key.len, (const uint8_t *)message.at, message.len, digest, NULL) != NULL);
}

void md5_begin(struct md5 *hash)
{
    hash->state = EVP_MD_CTX_new();
    must(hash->state && EVP_DigestInit_ex(hash->state, EVP_md5(), NULL) == 1);
}

void md5_add(struct md5 *hash, const void *at, size_t len)
{
    must(EVP_DigestUpdate(hash->state, at, len) == 1);
}

void md5_end(struct md5 *hash, char hex[33])
{
    uint8_t digest[16];

    if (hash->state && hex) {
        must(EVP_DigestFinal_ex(hash->state, digest, NULL) == 1);
        hex_encode(digest, sizeof digest, hex);
    }
    EVP_MD_CTX_free(hash->state);
    hash->state = NULL;
}

void git_blob_hex(struct str content, char hex[41])
{
    EVP_MD_CTX *state = EVP_MD_CTX_new();
    uint8_t digest[20];
    char head[32];
    int head_bytes = snprintf(head, sizeof head, "blob %zu", content.len) + 1;

    must(state && EVP_DigestInit_ex(state, EVP_sha1(), NULL) == 1 &&
         EVP_DigestUpdate(state, head, (size_t)head_bytes) == 1 &&
         EVP_DigestUpdate(state, content.at, content.len) == 1 && EVP_DigestFinal_ex(state, digest, NULL) == 1);
    EVP_MD_CTX_free(state);
    hex_encode(digest, sizeof digest, hex);
}

/* Four bits at a time; the table holds the remainders of one digit by the polynomial 0x1edc6f41, bits reversed. */
uint32_t crc32c_of(const void *at, size_t len)
{
    static const uint32_t remainder[16] = {
        0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
        0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9, 0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
    };
    const uint8_t *bytes = at;
    uint32_t crc = 0xffffffff;

    for (size_t i = 0; i < len; i++) {
        crc ^= bytes[i];
        crc = crc >> 4 ^ remainder[crc & 15];
        crc = crc >> 4 ^ remainder[crc & 15];
    }
    return ~crc;
}

void hex_encode(const uint8_t *bytes, size_t len, char *out)
{
    static const char digits[] = "0123456789abcdef";

    for (size_t i = 0; i < len; i++) {
        out[2 * i] = digits[bytes[i] >> 4];
        out[2 * i + 1] = digits[bytes[i] & 15];
    }
    out[2 * len] = 0;
}

void base64_encode(const void *bytes, size_t len, struct strbuf *out)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const uint8_t *at = bytes;

    strbuf_reserve(out, len / 3 * 4 + 4);
    for (size_t i = 0; i < len; i += 3) {
        const size_t left = len - i;
        const uint32_t three =
            (uint32_t)at[i] << 16 | (left > 1 ? (uint32_t)at[i + 1] << 8 : 0) | (left > 2 ? at[i + 2] : 0);

        strbuf_add_char(out, digits[three >> 18]);
        strbuf_add_char(out, digits[three >> 12 & 63]);
        strbuf_add_char(out, left > 1 ? digits[three >> 6 & 63] : '=');
        strbuf_add_char(out, left > 2 ? digits[three & 63] : '=');
    }
}

static int base64_value(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

bool base64_decode(struct str text, struct strbuf *out)
{
    size_t digits = text.len;
    uint32_t bits = 0;

    while (digits && text.len - digits < 2 && text.at[digits - 1] == '=')
        digits--;
    if (text.len % 4)
        return false;
    for (size_t i = 0; i < digits; i++) {
        const int value = base64_value(text.at[i]);

        if (value < 0)
            return false;
        bits = bits << 6 | (uint32_t)value;
        if (i % 4 > 0)
            strbuf_add_char(out, (char)(bits >> (6 - i % 4 * 2)));
    }
    return (bits & ((1u << (text.len - digits) * 2) - 1)) == 0; /* bits that no byte has */
}
