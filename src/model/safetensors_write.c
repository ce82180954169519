#include "model/safetensors.h"

#include "base/json.h"

#include <stdlib.h>
#include <string.h>

/* The reference writer sorts by falling type in this order, then by name. */
static int type_rank(enum dtype type)
{
    static const int ranks[DTYPE_COUNT] = {[DTYPE_U8] = 1,  [DTYPE_F16] = 2, [DTYPE_BF16] = 3, [DTYPE_I32] = 4,
                                           [DTYPE_F32] = 5, [DTYPE_F64] = 6, [DTYPE_I64] = 7};

    return ranks[type];
}

static int entry_compare(const void *a, const void *b)
{
    const struct safetensors_entry *s = a, *t = b;

    if (s->type != t->type)
        return type_rank(t->type) - type_rank(s->type);
    return strcmp(s->name, t->name);
}

uint64_t safetensors_entry_bytes(const struct safetensors_entry *entry)
{
    uint64_t bytes = dtype_bytes(entry->type);

    for (int i = 0; i < entry->rank; i++)
        bytes *= entry->shape[i];
    return bytes;
}

static void write_entry(struct json_writer *json, const struct safetensors_entry *entry, uint64_t at)
{
    json_write_key(json, entry->name);
    json_write_begin_object(json);
    json_put_text(json, "dtype", dtype_name(entry->type));
    json_write_key(json, "shape");
    json_write_begin_array(json);
    for (int i = 0; i < entry->rank; i++)
        json_write_integer(json, (int64_t)entry->shape[i]);
    json_write_end_array(json);
    json_write_key(json, "data_offsets");
    json_write_begin_array(json);
    json_write_integer(json, (int64_t)at);
    json_write_integer(json, (int64_t)(at + safetensors_entry_bytes(entry)));
    json_write_end_array(json);
    json_write_end_object(json);
}

/* Sorts the entries; length, JSON, spaces up to a multiple of 8. Returns the bytes of data that follow. */
static uint64_t make_header(struct strbuf *buf, struct safetensors_entry *entries, int count)
{
    struct json_writer json = {.buf = buf};
    uint64_t at = 0, len;

    if (count)
        qsort(entries, (size_t)count, sizeof *entries, entry_compare);
    strbuf_add(buf, "\0\0\0\0\0\0\0\0", 8);
    json_write_begin_object(&json);
    json_write_key(&json, "__metadata__");
    json_write_begin_object(&json);
    json_put_text(&json, "format", "pt");
    json_write_end_object(&json);
    for (int i = 0; i < count; i++) {
        write_entry(&json, &entries[i], at);
        at += safetensors_entry_bytes(&entries[i]);
    }
    json_write_end_object(&json);
    while (buf->len % 8)
        strbuf_add_char(buf, ' ');
    len = buf->len - 8;
    for (int i = 0; i < 8; i++)
        buf->at[i] = (char)(len >> (8 * i));
    return at;
}

uint64_t safetensors_file_bytes(struct safetensors_entry *entries, int count)
{
    struct strbuf header = {0};
    uint64_t bytes = make_header(&header, entries, count);

    bytes += header.len;
    strbuf_deinit(&header);
    return bytes;
}

static bool put(struct safetensors_writer *writer, const void *at, uint64_t bytes, struct err *err)
{
    sha256_add(&writer->hash, at, bytes);
    writer->written_bytes += bytes;
    return fd_write_all(writer->fd, at, bytes, writer->path, err);
}

bool safetensors_write_begin(struct safetensors_writer *writer, const char *path, struct safetensors_entry *entries,
                             int count, struct err *err)
{
    struct strbuf header = {0};
    bool ok = false;

    *writer = (struct safetensors_writer){.path = path, .fd = -1};
    writer->expected_bytes = make_header(&header, entries, count);
    writer->expected_bytes += header.len;
    writer->fd = file_create(path, err);
    if (writer->fd < 0)
        goto out;
    sha256_begin(&writer->hash);
    ok = fd_reserve(writer->fd, writer->expected_bytes, path, err) && put(writer, header.at, header.len, err);
out:
    strbuf_deinit(&header);
    if (!ok)
        safetensors_write_abort(writer);
    return ok;
}

bool safetensors_write(struct safetensors_writer *writer, const void *at, uint64_t bytes, struct err *err)
{
    ASSERT(bytes <= writer->expected_bytes - writer->written_bytes);
    return put(writer, at, bytes, err);
}

bool safetensors_write_end(struct safetensors_writer *writer, uint64_t *file_bytes, char *sha256, struct err *err)
{
    char hex[65];
    bool ok;

    ASSERT(writer->written_bytes == writer->expected_bytes);
    ok = fd_sync(writer->fd, writer->path, err);
    sha256_end_hex(&writer->hash, sha256 ? sha256 : hex);
    if (file_bytes)
        *file_bytes = writer->written_bytes;
    safetensors_write_abort(writer);
    return ok;
}

void safetensors_write_abort(struct safetensors_writer *writer)
{
    uint8_t digest[32];

    if (writer->hash.state)
        sha256_end(&writer->hash, digest);
    if (writer->fd > 0)
        fd_close(&writer->fd);
    *writer = (struct safetensors_writer){.fd = -1};
}
