#include "store/keyring.h"

#include "base/hash.h"
#include "os/entropy.h"
#include "os/file.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEY_BYTES = 32, NONCE_BYTES = 12, TAG_BYTES = 16, KEYRING_TEXT_MAX = 4096 };

struct key {
    char id[KEYRING_ID_BYTES];
    struct secret bytes;
};

struct keyring {
    struct key keys[KEYRING_KEYS_MAX];
    size_t count;
};

/* The first 8 bytes of SHA-256 over a prefix of its own and the key. */
static void name_key(struct key *key)
{
    static const char prefix[] = "attune master key id:";
    struct sha256 hash;
    uint8_t digest[32];
    struct str bytes = secret_reveal(&key->bytes);

    sha256_begin(&hash);
    sha256_add(&hash, prefix, sizeof prefix - 1);
    sha256_add(&hash, bytes.at, bytes.len);
    sha256_end(&hash, digest);
    hex_encode(digest, (KEYRING_ID_BYTES - 1) / 2, key->id);
}

static bool read_key(struct str word, struct key *key)
{
    char bytes[KEY_BYTES];
    int bad = word.len != (size_t)2 * KEY_BYTES;

    for (size_t i = 0; !bad && i < KEY_BYTES; i++) {
        int high = hex_value(word.at[2 * i]), low = hex_value(word.at[2 * i + 1]);

        bad = high < 0 || low < 0;
        bytes[i] = (char)(high * 16 + low);
    }
    if (!bad) {
        secret_set(&key->bytes, (struct str){bytes, sizeof bytes});
        name_key(key);
    }
    memory_erase(bytes, sizeof bytes);
    return !bad;
}

struct keyring *keyring_parse(struct str text, const char *name, struct err *err)
{
    struct keyring *keyring = mem_alloc_zero(1, sizeof *keyring);
    bool ok = true;

    text = str_trim(text);
    while (ok && text.len) {
        size_t len = 0;

        while (len < text.len && !strchr(" \t\r\n", text.at[len]))
            len++;
        ok = keyring->count < KEYRING_KEYS_MAX && read_key(str_slice(text, 0, len), &keyring->keys[keyring->count]);
        keyring->count += ok;
        text = str_trim(str_slice(text, len, text.len));
    }
    if (ok && keyring->count)
        return keyring;
    keyring_free(keyring);
    err_set(err, ERR_INPUT, "%s is not a keyring: it takes 1 to %d keys of 64 hexadecimal digits", name,
            KEYRING_KEYS_MAX);
    return NULL;
}

void keyring_free(struct keyring *keyring)
{
    if (!keyring)
        return;
    for (size_t i = 0; i < KEYRING_KEYS_MAX; i++)
        secret_wipe(&keyring->keys[i].bytes);
    free(keyring);
}

/* --- the file --- */

static struct keyring *read_file(const char *path, struct err *err)
{
    struct keyring *keyring = NULL;
    struct secret text = {0};
    int fd = file_open_read(path, err);

    if (fd >= 0 && fd_is_private(fd, path, err) && secret_read_fd(&text, fd, KEYRING_TEXT_MAX, path, err))
        keyring = keyring_parse(secret_reveal(&text), path, err);
    secret_wipe(&text);
    fd_close(&fd);
    return keyring;
}

/* A new key, if wanted, then the first `keep` of those that are there, a line each. */
static bool write_file(const char *path, bool with_new, const struct keyring *old, size_t keep, bool may_replace,
                       struct err *err)
{
    char text[(2 * KEY_BYTES + 1) * (KEYRING_KEYS_MAX + 1) + 1], *end = text;
    uint8_t bytes[KEY_BYTES];
    bool ok;

    if (with_new) {
        entropy_fill(bytes, sizeof bytes);
        hex_encode(bytes, sizeof bytes, end);
        memory_erase(bytes, sizeof bytes);
        end += 2 * KEY_BYTES;
        *end++ = '\n';
    }
    for (size_t i = 0; i < keep; i++) {
        hex_encode((const uint8_t *)secret_reveal(&old->keys[i].bytes).at, KEY_BYTES, end);
        end += 2 * KEY_BYTES;
        *end++ = '\n';
    }
    ok = file_write_secret(path, (struct str){text, (size_t)(end - text)}, may_replace, err);
    memory_erase(text, sizeof text);
    return ok;
}

static bool make_file(const char *path, struct err *err)
{
    char folder[4096];
    struct err problem = {0};

    snprintf(folder, sizeof folder, "%.*s", (int)(path_name(path) - path), path);
    if (folder[0] && !dir_make(folder, err))
        return false;
    if (write_file(path, true, NULL, 0, false, &problem) || problem.code == ERR_CONFLICT)
        return true;
    return err_set(err, problem.code, "%s", problem.text);
}

struct keyring *keyring_open_file(const char *path, bool may_make, struct err *err)
{
    if (!file_exists(path) && (!may_make || !make_file(path, err))) {
        if (!may_make)
            err_set(err, ERR_NOT_FOUND, "there is no key file %s", path);
        return NULL;
    }
    return read_file(path, err);
}

bool keyring_file_add_key(const char *path, struct err *err)
{
    struct keyring *old = read_file(path, err);
    bool ok = old != NULL;

    if (ok && old->count == KEYRING_KEYS_MAX)
        ok = err_set(err, ERR_LIMIT, "%s holds %d keys already", path, KEYRING_KEYS_MAX);
    ok = ok && write_file(path, true, old, old->count, true, err);
    keyring_free(old);
    return ok;
}

bool keyring_file_keep_first(const char *path, struct err *err)
{
    struct keyring *old = read_file(path, err);
    bool ok = old && write_file(path, false, old, 1, true, err);

    keyring_free(old);
    return ok;
}

/* --- sealing --- */

size_t keyring_key_count(const struct keyring *keyring)
{
    return keyring->count;
}

const char *keyring_sealing_id(const struct keyring *keyring)
{
    return keyring->keys[0].id;
}

static const struct key *find_key(const struct keyring *keyring, const char *id)
{
    for (size_t i = 0; i < keyring->count; i++)
        if (strcmp(keyring->keys[i].id, id) == 0)
            return &keyring->keys[i];
    return NULL;
}

bool keyring_has(const struct keyring *keyring, const char *id)
{
    return find_key(keyring, id) != NULL;
}

static const uint8_t *key_bytes(const struct key *key)
{
    return (const uint8_t *)secret_reveal(&key->bytes).at;
}

void keyring_seal(const struct keyring *keyring, struct str context, struct str plain, struct strbuf *sealed)
{
    EVP_CIPHER_CTX *cipher = EVP_CIPHER_CTX_new();
    uint8_t *nonce, *tag;
    int len = 0;
    bool ok;

    strbuf_reserve(sealed, NONCE_BYTES + plain.len + TAG_BYTES);
    nonce = (uint8_t *)sealed->at + sealed->len;
    tag = nonce + NONCE_BYTES + plain.len;
    entropy_fill(nonce, NONCE_BYTES);
    ok = cipher && EVP_EncryptInit_ex(cipher, EVP_aes_256_gcm(), NULL, key_bytes(&keyring->keys[0]), nonce) == 1 &&
         EVP_EncryptUpdate(cipher, NULL, &len, (const uint8_t *)context.at, (int)context.len) == 1 &&
         EVP_EncryptUpdate(cipher, nonce + NONCE_BYTES, &len, (const uint8_t *)plain.at, (int)plain.len) == 1 &&
         EVP_EncryptFinal_ex(cipher, tag, &len) == 1 &&
         EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_GCM_GET_TAG, TAG_BYTES, tag) == 1;
    EVP_CIPHER_CTX_free(cipher);
    if (!ok)
        die("out of memory: a secret could not be sealed");
    sealed->len += NONCE_BYTES + plain.len + TAG_BYTES;
}

static bool decrypt(const struct key *key, struct str context, struct str sealed, struct secret *plain)
{
    const uint8_t *nonce = (const uint8_t *)sealed.at, *text = nonce + NONCE_BYTES;
    const size_t text_len = sealed.len - NONCE_BYTES - TAG_BYTES;
    EVP_CIPHER_CTX *cipher = EVP_CIPHER_CTX_new();
    uint8_t *out = mem_alloc(text_len + 1), tag[TAG_BYTES];
    int len = 0;
    bool ok;

    memcpy(tag, text + text_len, TAG_BYTES);
    ok = cipher && EVP_DecryptInit_ex(cipher, EVP_aes_256_gcm(), NULL, key_bytes(key), nonce) == 1 &&
         EVP_DecryptUpdate(cipher, NULL, &len, (const uint8_t *)context.at, (int)context.len) == 1 &&
         EVP_DecryptUpdate(cipher, out, &len, text, (int)text_len) == 1 &&
         EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_GCM_SET_TAG, TAG_BYTES, tag) == 1 &&
         EVP_DecryptFinal_ex(cipher, out + text_len, &len) == 1;
    if (ok)
        secret_set(plain, (struct str){(const char *)out, text_len});
    EVP_CIPHER_CTX_free(cipher);
    memory_erase(out, text_len);
    free(out);
    return ok;
}

bool keyring_unseal(const struct keyring *keyring, const char *key_id, struct str context, struct str sealed,
                    struct secret *plain, struct err *err)
{
    const struct key *key = find_key(keyring, key_id);

    if (!key)
        return err_set(err, ERR_AUTH, "a secret is sealed under the key %s, which this server does not have", key_id);
    if (sealed.len >= NONCE_BYTES + TAG_BYTES && sealed.len <= INT32_MAX && decrypt(key, context, sealed, plain))
        return true;
    return err_set(err, ERR_AUTH, "a secret does not open under its key %s: the row was changed", key_id);
}
