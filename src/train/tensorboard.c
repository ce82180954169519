#include "train/tensorboard.h"

#include "base/hash.h"
#include "os/clock.h"
#include "os/file.h"

#include <inttypes.h>
#include <string.h>

enum { FRAME_BYTES = 16, HEAD_BYTES = 12, RECORD_BYTES_MAX = 1 << 20, FILE_BYTES_MAX = 1 << 30 };

/* Fields of the messages, as protobuf writes them in front of a value: number << 3 | wire type. */
enum {
    EVENT_WALL_TIME = 1 << 3 | 1,
    EVENT_STEP = 2 << 3 | 0,
    EVENT_FILE_VERSION = 3 << 3 | 2,
    EVENT_SUMMARY = 5 << 3 | 2,
    EVENT_SESSION_LOG = 7 << 3 | 2,
    SUMMARY_VALUE = 1 << 3 | 2,
    VALUE_TAG = 1 << 3 | 2,
    VALUE_SIMPLE = 2 << 3 | 5,
    SESSION_LOG_STATUS = 1 << 3 | 0,
    SESSION_START = 1,
};

/* --- writing --- */

static void put_little(struct strbuf *out, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        strbuf_add_char(out, (char)(value >> 8 * i));
}

static void put_varint(struct strbuf *out, uint64_t value)
{
    for (; value >= 0x80; value >>= 7)
        strbuf_add_char(out, (char)(value | 0x80));
    strbuf_add_char(out, (char)value);
}

static void put_bytes(struct strbuf *out, int field, struct str bytes)
{
    put_varint(out, (uint64_t)field);
    put_varint(out, bytes.len);
    strbuf_add_str(out, bytes);
}

/* TFRecord's: a checksum of data that holds checksums would be weak. */
static uint32_t masked_crc(const void *at, size_t len)
{
    uint32_t crc = crc32c_of(at, len);

    return (crc >> 15 | crc << 17) + 0xa282ead8;
}

static void begin_event(struct strbuf *event, int64_t step)
{
    double seconds = (double)clock_unix_ms() / 1000;
    uint64_t bits;

    memcpy(&bits, &seconds, sizeof bits);
    put_varint(event, EVENT_WALL_TIME);
    put_little(event, bits, 8);
    put_varint(event, EVENT_STEP);
    put_varint(event, (uint64_t)step);
}

static void put_record(struct strbuf *out, struct str event)
{
    size_t begin = out->len;

    put_little(out, event.len, 8);
    put_little(out, masked_crc(out->at + begin, 8), 4);
    strbuf_add_str(out, event);
    put_little(out, masked_crc(event.at, event.len), 4);
}

static void put_head(struct strbuf *out)
{
    struct strbuf event = {0};

    begin_event(&event, 0);
    put_bytes(&event, EVENT_FILE_VERSION, STR("brain.Event:2"));
    put_record(out, strbuf_view(&event));
    strbuf_deinit(&event);
}

/* Readers that have seen an earlier file forget it: everything follows once more. */
static void put_restart(struct strbuf *out)
{
    struct strbuf event = {0};

    begin_event(&event, 0);
    put_bytes(&event, EVENT_SESSION_LOG, (struct str){(const char[]){SESSION_LOG_STATUS, SESSION_START}, 2});
    put_record(out, strbuf_view(&event));
    strbuf_deinit(&event);
}

void tensorboard_add(struct tensorboard *board, const char *tag, double value)
{
    const float simple = (float)value;
    struct strbuf *out = &board->scalars;
    struct str name = str_of(tag);
    struct strbuf length = {0};
    uint32_t bits;

    memcpy(&bits, &simple, sizeof bits);
    put_varint(&length, name.len);
    put_varint(out, SUMMARY_VALUE);
    put_varint(out, 1 + length.len + name.len + 5);
    put_bytes(out, VALUE_TAG, name);
    put_varint(out, VALUE_SIMPLE);
    put_little(out, bits, 4);
    strbuf_deinit(&length);
}

static bool append(struct tensorboard *board, struct str bytes, struct err *err)
{
    if (!fd_write_all(board->fd, bytes.at, bytes.len, board->path, err)) {
        fd_cut(board->fd, board->bytes, board->path, NULL);
        return false;
    }
    board->bytes += bytes.len;
    return true;
}

bool tensorboard_write(struct tensorboard *board, int64_t step, struct err *err)
{
    struct strbuf event = {0};

    begin_event(&event, step);
    put_bytes(&event, EVENT_SUMMARY, strbuf_view(&board->scalars));
    strbuf_clear(&board->scalars);
    strbuf_clear(&board->record);
    put_record(&board->record, strbuf_view(&event));
    strbuf_deinit(&event);
    return append(board, strbuf_view(&board->record), err);
}

/* --- reading what an earlier attempt wrote --- */

static uint64_t get_little(const char *at, int bytes)
{
    uint64_t value = 0;

    for (int i = 0; i < bytes; i++)
        value |= (uint64_t)(uint8_t)at[i] << 8 * i;
    return value;
}

/* False: the message ends within it, or it is no 64-bit number. */
static bool take_varint(struct str *rest, uint64_t *value)
{
    *value = 0;
    for (size_t i = 0; i < 10 && i < rest->len; i++) {
        *value |= (uint64_t)(rest->at[i] & 0x7f) << 7 * i;
        if (!(rest->at[i] & 0x80)) {
            *rest = str_slice(*rest, i + 1, rest->len);
            return true;
        }
    }
    return false;
}

/* The event's step; -1: it is none of ours. */
static int64_t event_step(struct str event)
{
    uint64_t field, value;

    if (event.len < 9 || event.at[0] != EVENT_WALL_TIME)
        return -1;
    event = str_slice(event, 9, event.len);
    if (!take_varint(&event, &field) || field != EVENT_STEP || !take_varint(&event, &value) || value > INT64_MAX)
        return -1;
    return (int64_t)value;
}

/* Bytes of the record that the file begins with; 0: there is none that is whole. */
static size_t record_bytes(struct str file, struct str *event)
{
    uint64_t len;

    if (file.len < FRAME_BYTES)
        return 0;
    len = get_little(file.at, 8);
    if (len > RECORD_BYTES_MAX || len > file.len - FRAME_BYTES || get_little(file.at + 8, 4) != masked_crc(file.at, 8))
        return 0;
    *event = str_slice(file, HEAD_BYTES, HEAD_BYTES + (size_t)len);
    if (get_little(file.at + HEAD_BYTES + len, 4) != masked_crc(event->at, event->len))
        return 0;
    return FRAME_BYTES + (size_t)len;
}

size_t tensorboard_prefix(struct str file, int64_t step_max)
{
    size_t bytes = 0, next;
    struct str event = STR_NONE;
    int64_t step = 0;

    while ((next = record_bytes(str_slice(file, bytes, file.len), &event)) && (step = event_step(event)) >= 0 &&
           step <= step_max)
        bytes += next;
    return bytes;
}

/* --- the file --- */

static bool is_board(const char *name)
{
    return str_starts(str_of(name), STR("events.out.tfevents."));
}

/* What stays of the newest earlier file, behind the head of the new one. */
static bool put_earlier(struct strbuf *out, struct arena *arena, const char *path, int64_t step_max, struct err *err)
{
    struct str file, event = STR_NONE;
    size_t head;

    if (!file_read(arena, path, FILE_BYTES_MAX, &file, err))
        return false;
    head = record_bytes(file, &event);
    file = str_slice(file, head, head + tensorboard_prefix(str_slice(file, head, file.len), step_max));
    strbuf_add_str(out, file);
    return true;
}

/* TensorBoard's own reader stays for ever at a file that it was reading and that has gone; from an empty one it goes on
 * to the next. Each is replaced, not cut: whoever still writes into it writes for nobody. */
static bool empty_earlier(struct arena *arena, const char *folder, char **names, size_t count, struct err *err)
{
    bool ok = true;

    for (size_t i = 0; i < count && ok; i++)
        if (is_board(names[i]))
            ok = file_swap(path_join(arena, folder, names[i]), STR(""), err);
    return ok;
}

/* Appended to under a name that nobody looks for until everything earlier is in. */
static bool create(struct tensorboard *board, struct arena *arena, const char *folder, struct str content,
                   struct err *err)
{
    const char *temporary = path_join(arena, folder, "new.tmp");

    if (!file_remove(temporary, err) || (board->fd = file_open_append(temporary, err)) < 0)
        return false;
    return append(board, content, err) && tensorboard_sync(board, err) && file_rename(temporary, board->path, err);
}

bool tensorboard_open(struct tensorboard *board, struct arena *arena, const char *folder, int64_t attempt,
                      int64_t step_max, struct err *err)
{
    struct strbuf content = {0};
    const char *newest = NULL;
    char **names;
    size_t count;
    bool ok;

    if (!dir_make(folder, err) || !dir_list(arena, folder, &names, &count, err))
        return false;
    for (size_t i = 0; i < count; i++)
        newest = is_board(names[i]) ? path_join(arena, folder, names[i]) : newest;
    *board = (struct tensorboard){.fd = -1};
    board->path = arena_printf(arena, "%s/events.out.tfevents.%010" PRId64 ".attune", folder, attempt);
    put_head(&content);
    if (attempt > 1)
        put_restart(&content);
    ok = (!newest || step_max <= 0 || put_earlier(&content, arena, newest, step_max, err)) &&
         create(board, arena, folder, strbuf_view(&content), err) &&
         empty_earlier(arena, folder, names, count, err);
    strbuf_deinit(&content);
    if (!ok)
        tensorboard_close(board);
    return ok;
}

bool tensorboard_sync(struct tensorboard *board, struct err *err)
{
    return fd_sync(board->fd, board->path, err);
}

void tensorboard_close(struct tensorboard *board)
{
    if (!board->path)
        return;
    strbuf_deinit(&board->scalars);
    strbuf_deinit(&board->record);
    fd_close(&board->fd);
    board->path = NULL;
}
