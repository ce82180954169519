#include "infer/voice.h"
#include "base/json.h"
#include "os/file.h"

#include <stdlib.h>
#include <string.h>

static void add_stop_id(struct voice *voice, int32_t id)
{
    for (int i = 0; i < voice->stop_id_count; i++)
        if (voice->stop_ids[i] == id)
            return;
    if (id >= 0 && voice->stop_id_count < VOICE_STOPS_MAX)
        voice->stop_ids[voice->stop_id_count++] = id;
}

static void collect_stop_ids(struct voice *voice, const char *base, const int32_t *ends, int end_count)
{
    struct arena arena = {0};
    struct str text;

    for (int i = 0; i < end_count; i++)
        add_stop_id(voice, ends[i]);
    if (file_read(&arena, path_join(&arena, base, "generation_config.json"), 1 << 20, &text, NULL)) {
        const struct json *eos = json_get(json_parse(&arena, text, NULL, NULL), "eos_token_id");
        add_stop_id(voice, (int32_t)json_integer_or(eos, -1));
        json_each(id, eos)
            add_stop_id(voice, (int32_t)json_integer_or(id, -1));
    }
    add_stop_id(voice, tokenizer_special_id(voice->format.tokenizer, TOKENIZER_EOS));
    add_stop_id(voice, chat_format_end_of_turn(&voice->format));
    arena_deinit(&arena);
}

struct voice *voice_open(const char *folder, const char *base, const int32_t *ends, int end_count, int64_t now,
                         struct err *err)
{
    struct voice *voice = mem_alloc_zero(1, sizeof *voice);

    if (!chat_format_open(&voice->format, folder, now, err)) {
        voice_close(voice);
        return NULL;
    }
    voice->scratch = tokenizer_scratch_new(voice->format.tokenizer);
    collect_stop_ids(voice, base, ends, end_count);
    return voice;
}

void voice_close(struct voice *voice)
{
    if (!voice)
        return;
    tokenizer_scratch_free(voice->scratch);
    chat_format_close(&voice->format);
    free(voice);
}

/* Two files that are both absent are the same. */
static bool is_same_file(struct arena *arena, const char *folder, const char *base, const char *name)
{
    const char *ours = path_join(arena, folder, name), *theirs = path_join(arena, base, name);
    struct mapped_file a = {0}, b = {0};
    bool has_ours = file_map(&a, ours, NULL), has_theirs = file_map(&b, theirs, NULL);
    bool is_same =
        has_ours == has_theirs && a.bytes == b.bytes && (a.bytes == 0 || memcmp(a.data, b.data, a.bytes) == 0);

    file_unmap(&a);
    file_unmap(&b);
    return is_same;
}

/* A folder with several templates is its own without a look into them. */
bool voice_is_own(const char *folder, const char *base)
{
    static const char *const names[] = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                                        "chat_template.jinja"};
    struct arena arena = {0};
    bool is_own = file_exists(path_join(&arena, folder, "additional_chat_templates"));

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        is_own |= !is_same_file(&arena, folder, base, names[i]);
    is_own &= file_exists(path_join(&arena, folder, "tokenizer.json"));
    arena_deinit(&arena);
    return is_own;
}
