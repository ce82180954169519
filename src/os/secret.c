#include "os/secret.h"

#include <openssl/crypto.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct secret_pages {
    size_t map_bytes, len;
    char at[]; /* and a NUL */
};

/* Locking and the two advices are best effort: a small limit of locked memory is no reason to fail. */
static struct secret_pages *pages_new(size_t len)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), bytes = sizeof(struct secret_pages) + len + 1;
    const size_t map_bytes = (bytes + page - 1) / page * page;
    struct secret_pages *pages = mmap(NULL, map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (pages == MAP_FAILED)
        die("no memory for a secret of %zu bytes", len);
    madvise(pages, map_bytes, MADV_DONTDUMP);
    madvise(pages, map_bytes, MADV_WIPEONFORK);
    mlock(pages, map_bytes);
    pages->map_bytes = map_bytes;
    pages->len = len;
    return pages;
}

void secret_set(struct secret *secret, struct str bytes)
{
    struct secret_pages *pages = pages_new(bytes.len);

    if (bytes.len)
        memcpy(pages->at, bytes.at, bytes.len);
    secret_wipe(secret);
    secret->pages = pages;
}

bool secret_read_fd(struct secret *secret, int fd, size_t bytes_max, const char *name, struct err *err)
{
    struct secret_pages *pages = pages_new(bytes_max + 1);
    long got = 1;

    secret_wipe(secret);
    secret->pages = pages;
    pages->len = 0;
    while (got > 0 && pages->len <= bytes_max) {
        got = read(fd, pages->at + pages->len, bytes_max + 1 - pages->len);
        pages->len += got > 0 ? (size_t)got : 0;
    }
    if (got < 0 || pages->len > bytes_max) {
        secret_wipe(secret);
        return got < 0 ? err_set(err, ERR_IO, "cannot read %s", name)
                       : err_set(err, ERR_LIMIT, "%s is longer than %zu bytes", name, bytes_max);
    }
    while (pages->len && strchr(" \t\r\n", pages->at[pages->len - 1]))
        pages->at[--pages->len] = 0;
    return true;
}

bool secret_is_set(const struct secret *secret)
{
    return secret->pages != NULL;
}

struct str secret_reveal(const struct secret *secret)
{
    return secret->pages ? (struct str){secret->pages->at, secret->pages->len} : STR("");
}

void secret_last4(const struct secret *secret, char out[5])
{
    struct str text = secret_reveal(secret);

    memset(out, 0, 5);
    if (text.len < 16)
        return;
    for (size_t i = 0; i < text.len; i++)
        if (text.at[i] <= 0x20 || text.at[i] >= 0x7f)
            return;
    memcpy(out, text.at + text.len - 4, 4);
}

void secret_wipe(struct secret *secret)
{
    struct secret_pages *pages = secret->pages;

    secret->pages = NULL;
    if (!pages)
        return;
    const size_t map_bytes = pages->map_bytes;
    memory_erase(pages, map_bytes);
    munmap(pages, map_bytes);
}

void memory_erase(const void *at, size_t bytes)
{
    if (bytes)
        explicit_bzero((void *)(uintptr_t)at, bytes);
}
