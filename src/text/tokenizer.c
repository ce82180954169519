#include "text/tokenizer_int.h"

#include "base/hash.h"
#include "os/entropy.h"
#include "os/file.h"

#include <stdlib.h>

enum {
    FILE_BYTES_MAX = 50 << 20,
    CONFIG_BYTES_MAX = 8 << 20,
    TOKENS_MAX = 1000000,
    TOKEN_BYTES_MAX = 1 << 16,
    JSON_DEPTH_MAX = 32,
};

static bool check_id(const struct json *id, size_t limit, struct str token, struct err *err)
{
    if (json_has_type(id, JSON_NUMBER) && id->is_integer && id->integer >= 0 && (size_t)id->integer < limit)
        return true;
    return err_set(err, ERR_LIMIT, "tokenizer: token \"%.*s\" has no id in [0, %zu), twice the number of tokens",
                   STR_ARG(str_slice(token, 0, 60)), limit);
}

static bool add_token(struct tokenizer *tok, const struct json *token, struct str text, uint64_t place, struct err *err)
{
    if (!check_id(token, 2 * tok->token_count, text, err))
        return false;
    if (tok->texts[token->integer].at)
        return err_set(err, ERR_INPUT, "tokenizer: id %lld belongs to two tokens", (long long)token->integer);
    if (!vocab_add_at(&tok->vocab, text, place, (int32_t)token->integer))
        return err_set(err, ERR_INPUT, "tokenizer: token \"%.*s\" stands twice", STR_ARG(str_slice(text, 0, 60)));
    tok->texts[token->integer] = text;
    return true;
}

static bool read_vocab(struct tokenizer *tok, const struct json *vocab, uint64_t seed, struct err *err)
{
    const struct json *token = vocab->first, *next = token;
    uint64_t place[VOCAB_TOGETHER];
    struct str text[VOCAB_TOGETHER];

    vocab_init(&tok->vocab, &tok->arena, vocab->count, seed);
    while (token) {
        for (int i = 0; i < VOCAB_TOGETHER && next; i++, next = next->next) {
            text[i] = (struct str){str_copy(&tok->arena, next->key), next->key.len};
            place[i] = vocab_place(&tok->vocab, text[i]);
        }
        for (int i = 0; token != next; i++, token = token->next)
            if (!add_token(tok, token, text[i], place[i], err))
                return false;
    }
    return true;
}

static bool read_added_token(struct tokenizer *tok, const struct json *json, size_t limit, struct err *err)
{
    struct added_token *token = &tok->added[tok->added_count];
    struct str content = json_string_or(json_get(json, "content"), STR_NONE);
    const struct json *id = json_get(json, "id");
    int32_t known;

    if (!content.at)
        return err_set(err, ERR_INPUT, "tokenizer: an added token has no content");
    if (!check_id(id, limit, content, err))
        return false;
    known = vocab_find(&tok->vocab, content);
    if (known >= 0 && known != id->integer)
        return err_set(err, ERR_INPUT, "tokenizer: added token \"%.*s\" has id %lld, but %d in the vocabulary",
                       STR_ARG(str_slice(content, 0, 60)), (long long)id->integer, known);
    *token = (struct added_token){.content = {str_copy(&tok->arena, content), content.len},
                                  .id = (int32_t)id->integer,
                                  .special = json_bool_or(json_get(json, "special"), false),
                                  .single_word = json_bool_or(json_get(json, "single_word"), false),
                                  .lstrip = json_bool_or(json_get(json, "lstrip"), false),
                                  .rstrip = json_bool_or(json_get(json, "rstrip"), false)};
    token->normalized = json_bool_or(json_get(json, "normalized"), !token->special);
    if (!vocab_add(&tok->added_ids, token->content, token->id))
        return true; /* a repetition of one before */
    tok->added_count++;
    tok->texts[token->id] = token->content;
    tok->is_special[token->id] = token->special;
    return true;
}

/* What a normalised added token is looked for as. */
static bool normalized_content(const struct tokenizer *tok, struct str *content, struct arena *arena, struct err *err)
{
    struct rewrite out = {0};
    void *match_data = pattern_match_data();
    bool ok = true, changed;

    for (int i = 0; ok && i < tok->normalizer.count; i++) {
        ok = normalizer_run(&tok->normalizer.stages[i], match_data, *content, &out, &changed, err);
        if (ok && changed)
            *content = (struct str){str_copy(arena, strbuf_view(&out.text)), out.text.len};
    }
    pattern_match_data_free(match_data);
    rewrite_deinit(&out);
    return ok;
}

static bool index_added_tokens(struct tokenizer *tok, struct err *err)
{
    tok->raw_set.entries = arena_new_array(&tok->arena, struct added_entry, tok->added_count + 1);
    tok->normalized_set.entries = arena_new_array(&tok->arena, struct added_entry, tok->added_count + 1);
    for (size_t i = 0; i < tok->added_count; i++) {
        const struct added_token *token = &tok->added[i];
        struct added_set *set = token->normalized ? &tok->normalized_set : &tok->raw_set;
        struct added_entry entry = {token->content, token};

        if (token->normalized && !normalized_content(tok, &entry.content, &tok->arena, err))
            return false;
        set->entries[set->count++] = entry;
        tok->spelled[token->id] = entry.content;
    }
    added_set_sort(&tok->raw_set);
    added_set_sort(&tok->normalized_set);
    return true;
}

static bool read_tokens(struct tokenizer *tok, const struct json *model, const struct json *added, struct err *err)
{
    const struct json *vocab = json_get(model, "vocab");
    size_t limit;
    uint64_t seed;

    if (!json_has_type(vocab, JSON_OBJECT))
        return err_set(err, ERR_INPUT, "tokenizer: model.vocab is %s, expected an object", json_type_name(vocab));
    tok->token_count = vocab->count + (json_has_type(added, JSON_ARRAY) ? added->count : 0);
    if (tok->token_count > TOKENS_MAX)
        return err_set(err, ERR_LIMIT, "tokenizer: %zu tokens; the limit is %d", tok->token_count, TOKENS_MAX);
    entropy_fill(&seed, sizeof seed);
    limit = 2 * tok->token_count;
    tok->texts = arena_new_array(&tok->arena, struct str, limit + 1);
    tok->is_special = arena_new_array(&tok->arena, uint8_t, limit + 1);
    if (!read_vocab(tok, vocab, seed, err))
        return false;
    tok->added = arena_new_array(&tok->arena, struct added_token, tok->token_count - vocab->count + 1);
    vocab_init(&tok->added_ids, &tok->arena, tok->token_count - vocab->count, seed);
    json_each(token, added)
        if (!read_added_token(tok, token, limit, err))
            return false;
    tok->token_count = 0;
    for (size_t id = 0; id < limit; id++)
        if (tok->texts[id].at) {
            tok->token_count++;
            tok->id_limit = id + 1;
        }
    tok->spelled = arena_new_array(&tok->arena, struct str, limit + 1);
    memcpy(tok->spelled, tok->texts, limit * sizeof *tok->spelled);
    return true;
}

static bool check_model(const struct json *root, struct err *err)
{
    const struct json *model = json_get(root, "model");
    struct str type = json_string_or(json_get(model, "type"), STR("BPE"));

    if (!json_has_type(model, JSON_OBJECT))
        return err_set(err, ERR_INPUT, "tokenizer: model is %s, expected an object", json_type_name(model));
    if (!str_is(type, "BPE"))
        return err_set(err, ERR_UNSUPPORTED, "tokenizer: model %.*s is not supported, only BPE is",
                       STR_ARG(str_slice(type, 0, 60)));
    return true;
}

static void make_decoded(struct tokenizer *tok)
{
    struct strbuf text = {0};

    tok->decoded = arena_new_array(&tok->arena, struct str, tok->id_limit);
    tok->decoded_byte = arena_new_array(&tok->arena, int16_t, tok->id_limit);
    for (size_t id = 0; id < tok->id_limit; id++) {
        if (!tok->texts[id].at)
            continue;
        strbuf_clear(&text);
        decoder_token_text(&tok->decoder, tok->spelled[id], false, &text);
        tok->decoded[id] = (struct str){arena_copy(&tok->arena, text.at, text.len), text.len};
        tok->decoded_byte[id] = (int16_t)decoder_token_byte(&tok->decoder, tok->spelled[id]);
    }
    strbuf_deinit(&text);
}

static bool read_config(struct tokenizer *tok, struct str text, struct err *err)
{
    static const char *const names[] = {"bos_token", "eos_token", "pad_token", "unk_token"};
    struct arena arena = {0};
    const struct json *config, *value;

    if (!text.len)
        return true;
    config = json_parse(&arena, text, NULL, err);
    for (int i = 0; config && i < TOKENIZER_SPECIALS; i++) {
        value = json_get(config, names[i]);
        if (json_has_type(value, JSON_OBJECT))
            value = json_get(value, "content");
        if (json_has_type(value, JSON_STRING))
            tok->special_texts[i] = (struct str){str_copy(&tok->arena, value->string), value->string.len};
    }
    arena_deinit(&arena);
    return config || err_prefix(err, "tokenizer_config.json");
}

static bool read_parts(struct tokenizer *tok, const struct json *root, struct err *err)
{
    const struct json *model = json_get(root, "model");

    if (!check_model(root, err) || !read_tokens(tok, model, json_get(root, "added_tokens"), err))
        return false;
    if (!normalizer_parse(&tok->normalizer, &tok->arena, json_get(root, "normalizer"), err))
        return false;
    if (!tokenizer_parse_splits(tok, json_get(root, "pre_tokenizer"), err))
        return false;
    tok->bpe = bpe_parse(&tok->arena, model, tok->byte_level, &tok->vocab, tok->texts, err);
    if (!tok->bpe || !index_added_tokens(tok, err))
        return false;
    if (!tokenizer_parse_post(tok, json_get(root, "post_processor"), err))
        return false;
    if (!decoder_parse(&tok->decoder, &tok->arena, json_get(root, "decoder"), err))
        return false;
    make_decoded(tok);
    return true;
}

struct tokenizer *tokenizer_parse(struct str text, struct str config, struct err *err)
{
    struct tokenizer *tok = mem_alloc_zero(1, sizeof *tok);
    struct json_limits limits = {.depth = JSON_DEPTH_MAX, .string_bytes = TOKEN_BYTES_MAX};
    struct arena arena = {0};
    const struct json *root = NULL;
    bool ok = false;

    if (text.len > FILE_BYTES_MAX) {
        err_set(err, ERR_LIMIT, "tokenizer.json has %zu bytes; the limit is %d MiB", text.len, FILE_BYTES_MAX >> 20);
        goto out;
    }
    root = json_parse(&arena, text, &limits, err);
    if (!root) {
        err_prefix(err, "tokenizer.json");
        goto out;
    }
    sha256_hex(text, tok->hash);
    ok = read_parts(tok, root, err) && read_config(tok, config, err);
out:
    arena_deinit(&arena);
    if (!ok) {
        tokenizer_free(tok);
        tok = NULL;
    }
    return tok;
}

struct tokenizer *tokenizer_open(const char *path, struct err *err)
{
    struct tokenizer *tok = NULL;
    struct arena arena = {0};
    struct str json, config = {0};
    char *folder = arena_copy(&arena, path, strlen(path)), *config_path;

    if (dir_exists(path))
        path = path_join(&arena, path, "tokenizer.json");
    else
        folder[path_name(folder) - folder] = '\0';
    config_path = *folder ? path_join(&arena, folder, "tokenizer_config.json") : "tokenizer_config.json";
    if (!file_read(&arena, path, FILE_BYTES_MAX, &json, err))
        goto out;
    if (file_exists(config_path) && !file_read(&arena, config_path, CONFIG_BYTES_MAX, &config, err))
        goto out;
    tok = tokenizer_parse(json, config, err);
    if (!tok)
        err_prefix(err, "%s", path);
out:
    arena_deinit(&arena);
    return tok;
}

void tokenizer_free(struct tokenizer *tok)
{
    if (!tok)
        return;
    normalizer_deinit(&tok->normalizer);
    for (int i = 0; i < tok->split_count; i++)
        pattern_free(tok->splits[i].pattern);
    arena_deinit(&tok->arena);
    free(tok);
}

int32_t tokenizer_token_id(const struct tokenizer *tok, struct str token)
{
    int32_t id = vocab_find(&tok->added_ids, token);

    return id >= 0 ? id : vocab_find(&tok->vocab, token);
}

static bool has_token(const struct tokenizer *tok, int32_t id)
{
    return id >= 0 && (size_t)id < tok->id_limit && tok->texts[id].at;
}

struct str tokenizer_token_text(const struct tokenizer *tok, int32_t id)
{
    return has_token(tok, id) ? tok->texts[id] : STR_NONE;
}

bool tokenizer_is_special(const struct tokenizer *tok, int32_t id)
{
    return has_token(tok, id) && tok->is_special[id];
}

size_t tokenizer_id_limit(const struct tokenizer *tok)
{
    return tok->id_limit;
}

const char *tokenizer_hash(const struct tokenizer *tok)
{
    return tok->hash;
}

struct str tokenizer_special_text(const struct tokenizer *tok, enum tokenizer_special which)
{
    return tok->special_texts[which];
}

int32_t tokenizer_special_id(const struct tokenizer *tok, enum tokenizer_special which)
{
    return tok->special_texts[which].at ? tokenizer_token_id(tok, tok->special_texts[which]) : -1;
}
