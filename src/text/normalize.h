/* text/normalize.h - the normalizers of tokenizer.json: NFC NFD NFKC NFKD Lowercase Strip StripAccents Replace
 * Prepend, and Sequence of them. Others are refused by name. */
#pragma once

#include "text/pattern.h"
#include "text/rewrite.h"

enum { NORMALIZER_STAGES_MAX = 16 };

struct normalizer {
    struct normalizer_stage {
        int kind;
        struct pattern *pattern; /* Replace */
        struct str content;      /* Replace, Prepend */
        bool left, right;        /* Strip */
    } stages[NORMALIZER_STAGES_MAX];
    int count;
};

/* Strings are copied into the arena. null gives a normalizer without stages. */
bool normalizer_parse(struct normalizer *normalizer, struct arena *arena, const struct json *json, struct err *err);
void normalizer_deinit(struct normalizer *normalizer);

/* Runs one stage on valid UTF-8. *changed false: the text stays as it is and `out` holds nothing of use. */
bool normalizer_run(const struct normalizer_stage *stage, void *match_data, struct str text, struct rewrite *out,
                    bool *changed, struct err *err);
