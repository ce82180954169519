/* attune devices: the GPUs of this machine, for people and for the server, which opens no driver itself. */
#include "base/json.h"
#include "cli/cli.h"
#include "cli/devices.h"
#include "cli/options.h"
#include "compute/device.h"
#include "os/file.h"

#include <stdio.h>

static const char driver_file[] = "/proc/driver/nvidia/version";

/* The driver's version is the first number with a point in it; NULL: there is no such file. */
static const char *driver_version(struct arena *arena)
{
    struct str text, word;

    if (!file_read(arena, driver_file, 1 << 16, &text, NULL))
        return NULL;
    for (size_t i = 0, end; i < text.len; i = end + 1) {
        for (end = i; end < text.len && text.at[end] != ' ' && text.at[end] != '\n';)
            end++;
        word = str_slice(text, i, end);
        if (word.len > 0 && word.at[0] >= '0' && word.at[0] <= '9' && str_find(word, STR("."), 0) > 0)
            return str_copy(arena, word);
    }
    return NULL;
}

static void put_gpu(struct json_writer *w, int index)
{
    struct arena arena = {0};
    struct device_info info;

    if (!device_describe(index, &info, NULL))
        return;
    json_write_begin_object(w);
    json_put_text(w, "id", arena_printf(&arena, "cuda:%d", index));
    json_put_text(w, "name", info.name);
    json_put_integer(w, "memory_bytes", (int64_t)info.bytes);
    json_put_integer(w, "free_memory_bytes", (int64_t)info.free_bytes);
    json_put_text(w, "compute_capability", arena_printf(&arena, "%d.%d", info.major, info.minor));
    json_write_end_object(w);
    arena_deinit(&arena);
}

static void print_json(int count, const char *driver, const struct err *why)
{
    struct strbuf text = {0};
    struct json_writer w = {.buf = &text};

    json_write_begin_object(&w);
    json_write_key(&w, "gpus");
    json_write_begin_array(&w);
    for (int i = 0; i < count; i++)
        put_gpu(&w, i);
    json_write_end_array(&w);
    json_put_text(&w, "driver_version", driver);
    json_put_text(&w, "why_no_gpu", count ? NULL : why->text);
    json_write_end_object(&w);
    printf("%s\n", text.at);
    strbuf_deinit(&text);
}

void print_gpu(int index)
{
    struct device_info info;
    struct err err = {0};

    if (device_describe(index, &info, &err))
        printf("device cuda:%d: %s, %.1f of %.1f GB free, compute capability %d.%d\n", index, info.name,
               (double)info.free_bytes / 1e9, (double)info.bytes / 1e9, info.major, info.minor);
    else
        printf("device cuda:%d: %s\n", index, err.text);
}

void print_gpus(void)
{
    struct err err = {0};
    int count = device_count(&err);

    for (int i = 0; i < count; i++)
        print_gpu(i);
    if (!count)
        printf("no GPU: %s\n", err.text);
}

int cli_devices(int argc, char **argv)
{
    bool is_json = false;
    const struct option list[] = {
        {"json", OPTION_FLAG, &is_json, NULL, "one line of JSON, as the server reads it", NULL},
    };
    const struct options options = {
        .usage = "attune devices [--json]",
        .about = "Lists the GPUs that jobs and chats may use, or says in one line why there is none.",
        .list = list,
        .count = sizeof list / sizeof *list,
    };
    struct arena arena = {0};
    struct err err = {0};

    if (!options_parse(&options, argc, argv, NULL, NULL, &err)) {
        fprintf(stderr, "attune devices: %s\n", err.text);
        return 2;
    }
    if (is_json) {
        int count = device_count(&err);
        print_json(count, driver_version(&arena), &err);
    } else {
        print_gpus();
    }
    arena_deinit(&arena);
    return 0;
}
