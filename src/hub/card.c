#include "hub/card.h"

#include "hub/name.h"

#include <string.h>

enum { HEAD_LINES_MAX = 200, LICENCE_BYTES_MAX = 64 };

/* --- the licence of a base --- */

static struct str unquote(struct str value)
{
    const bool is_quoted = value.len >= 2 && (value.at[0] == '"' || value.at[0] == '\'') &&
                           value.at[value.len - 1] == value.at[0];

    return is_quoted ? str_slice(value, 1, value.len - 1) : value;
}

static bool is_licence(struct str name)
{
    for (size_t i = 0; i < name.len; i++)
        if (!memchr("abcdefghijklmnopqrstuvwxyz0123456789.-", name.at[i], 38))
            return false;
    return name.len > 0 && name.len <= LICENCE_BYTES_MAX;
}

const char *hub_card_licence(struct arena *arena, struct str text)
{
    struct str line, value;

    if (!str_take_line(&text, &line) || !str_is(str_trim(line), "---"))
        return NULL;
    for (int i = 0; i < HEAD_LINES_MAX && str_take_line(&text, &line) && !str_is(str_trim(line), "---"); i++) {
        line = str_trim(line);
        if (!str_starts(line, STR("license:")))
            continue;
        value = unquote(str_trim(str_slice(line, 8, line.len)));
        return is_licence(value) ? str_copy(arena, value) : NULL;
    }
    return NULL;
}

/* --- the head --- */

static bool is_of_hub(const char *base)
{
    return base && strchr(base, '/') && hub_name_is_repo(str_of(base));
}

static void write_head(const struct hub_card *card, struct strbuf *out)
{
    const bool has_base = is_of_hub(card->base);

    strbuf_add_text(out, "---\n");
    if (has_base)
        strbuf_printf(out, "base_model: %s\n", card->base);
    if (has_base && !card->is_adapter)
        strbuf_add_text(out, "base_model_relation: finetune\n");
    if (card->base_licence)
        strbuf_printf(out, "license: %s\n", card->base_licence);
    strbuf_printf(out, "library_name: %s\npipeline_tag: text-generation\ntags:\n",
                  card->is_adapter ? "peft" : "transformers");
    if (has_base)
        strbuf_printf(out, "- base_model:%s:%s\n", card->is_adapter ? "adapter" : "finetune", card->base);
    strbuf_printf(out, "%s- %s\n%s---\n\n", card->is_adapter ? "- lora\n" : "",
                  strcmp(card->method, "dpo") == 0 ? "dpo" : "sft", card->is_adapter ? "- transformers\n" : "");
}

/* --- tables --- */

static void add_row(struct strbuf *out, const char *name, const struct json *value)
{
    struct strbuf text = {0};

    if (json_is_null(value) || value->type == JSON_OBJECT || value->type == JSON_ARRAY)
        return;
    strbuf_reserve(&text, 1);
    if (value->type == JSON_STRING)
        strbuf_add_str(&text, value->string);
    else
        json_write_value(&(struct json_writer){.buf = &text}, value);
    if (!strpbrk(name, "|\n\r") && !memchr(text.at, '|', text.len) && !memchr(text.at, '\n', text.len))
        strbuf_printf(out, "| %s | %s |\n", name, text.at);
    strbuf_deinit(&text);
}

static void begin_table(struct strbuf *out, const char *title)
{
    strbuf_printf(out, "\n## %s\n\n| | |\n|---|---|\n", title);
}

struct row {
    const char *member, *text;
};

static void add_rows(struct strbuf *out, const struct json *object, const struct row *rows, size_t count)
{
    for (size_t i = 0; i < count; i++)
        add_row(out, rows[i].text, json_get(object, rows[i].member));
}

static void write_data(const struct hub_card *card, struct strbuf *out)
{
    static const struct row rows[] = {{"examples", "examples"},
                                      {"over_length_lines", "lines left out as too long"},
                                      {"untrained_lines", "lines left out with nothing to train on"},
                                      {"trained_tokens", "tokens seen, all epochs"},
                                      {"supervised_tokens", "of these with a loss"}};
    static const struct row hashes[] = {{"training_file", "SHA-256 of the training file"},
                                        {"validation_file", "SHA-256 of the validation file"}};

    begin_table(out, "Data");
    add_rows(out, card->receipt, rows, sizeof rows / sizeof *rows);
    add_rows(out, json_get(card->receipt, "sha256"), hashes, sizeof hashes / sizeof *hashes);
}

static void write_training(const struct hub_card *card, struct arena *arena, struct strbuf *out)
{
    static const struct row figures[] = {{"steps", "steps"},
                                         {"trainable_parameters", "trainable parameters"},
                                         {"quantization", "quantization of the base"}};

    begin_table(out, "Training");
    strbuf_printf(out, "| method | %s |\n", card->method);
    add_rows(out, card->receipt, figures, sizeof figures / sizeof *figures);
    json_each(value, card->hyperparameters)
        add_row(out, str_copy(arena, value->key), value);
}

static void write_results(const struct hub_card *card, struct arena *arena, struct strbuf *out)
{
    static const struct row losses[] = {{"first_loss", "loss of the first step"},
                                        {"last_loss", "loss of the last step"}};

    begin_table(out, "Results");
    add_rows(out, card->receipt, losses, sizeof losses / sizeof *losses);
    json_each(value, card->metrics)
        if (!str_is(value->key, "step"))
            add_row(out, str_copy(arena, value->key), value);
    json_each(probe, json_get(card->receipt, "probes")) {
        struct str name = json_string_or(json_get(probe, "name"), STR("of the run"));

        add_row(out, arena_printf(arena, "check %.*s", STR_ARG(name)), json_get(probe, "verdict"));
    }
}

static void write_use(const struct hub_card *card, struct strbuf *out)
{
    strbuf_add_text(out, "\n## Use\n\n```python\n");
    if (card->is_adapter)
        strbuf_printf(out,
                      "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
                      "base = AutoModelForCausalLM.from_pretrained(\"%s\")\n"
                      "model = PeftModel.from_pretrained(base, \"%s\")\n",
                      is_of_hub(card->base) ? card->base : "the base model", card->repo);
    else
        strbuf_printf(out,
                      "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
                      "model = AutoModelForCausalLM.from_pretrained(\"%s\")\n",
                      card->repo);
    strbuf_printf(out, "tokenizer = AutoTokenizer.from_pretrained(\"%s\")\n```\n", card->repo);
}

void hub_card_write(const struct hub_card *card, struct arena *arena, struct strbuf *out)
{
    const struct str version = json_string_or(json_get(card->receipt, "version"), STR_NONE);

    write_head(card, out);
    strbuf_printf(out, "# %s\n\n%s", strchr(card->repo, '/') + 1,
                  card->is_adapter ? "A LoRA adapter" : "A fine-tuned model");
    if (is_of_hub(card->base))
        strbuf_printf(out, " %s %s", card->is_adapter ? "for" : "made from", card->base);
    strbuf_printf(out, ", trained with attune%s%.*s.\n", version.len ? " " : "", STR_ARG(version));
    write_data(card, out);
    write_training(card, arena, out);
    write_results(card, arena, out);
    write_use(card, out);
}
