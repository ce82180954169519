/* data/encode.h - an example as tokens, and which of them train.
 *
 *   messages    the text of the chat template, or of its training variant where text/training_template.h has one,
 *               without special tokens added. Every assistant turn trains with its end-of-turn token (text/chat.h says
 *               where it ends); a turn with weight 0 does not.
 *   prompt      prompt, completion and the end-of-text token as one text; of messages, the chat template's text. It
 *               trains from where its tokens leave those of the prompt alone (with a generation prompt): when the
 *               border falls inside a token, that token trains. That is TRL's rule (1.16).
 *   text        the text and the end-of-text token; all trains.
 *   token_ids   as they are; what has a label trains, all without labels.
 *   preference  two sequences, the prompt with each completion; texts get the end-of-text token. All trains from the
 *               first token in which either sequence leaves the prompt's tokens (those of a conversation with a
 *               generation prompt), what the template writes behind the turn included: TRL's rule for DPO (1.16).
 *
 * Prompts and texts get what the tokenizer's own post-processor puts in front (a beginning-of-text token, also before
 * one that the text spells) and one end-of-text token, unless completion or text already end with its text. A
 * document's first token never trains: nothing predicts it.
 *
 * An encoder is what one model folder says about this; it is read-only and shared by threads, each with its own
 * scratch. */
#pragma once

#include "data/example.h"

#include <stdint.h>

struct encoder;
struct encoder_scratch;

struct encoder_options {
    const char *folder; /* with the tokenizer's files and the chat template */
    int32_t vocab;      /* rows of the model's embedding; tokens at or above it are refused */
    int32_t eos_id;     /* the model's own, for tokenizers that name none; -1: none */
    int64_t now;        /* the clock of templates, see struct template_options */
};

struct encoder *encoder_open(const struct encoder_options *options, struct err *err);
void encoder_free(struct encoder *encoder);
struct encoder_scratch *encoder_scratch_new(const struct encoder *encoder);
void encoder_scratch_free(struct encoder_scratch *scratch);

/* Everything about the encoder that decides tokens and masks, hashed: hexadecimal SHA-256. */
const char *encoder_hash(const struct encoder *encoder);
/* SHA-256 of tokenizer.json; of the chat template's text, or "" when the model has none. */
const char *encoder_tokenizer_hash(const struct encoder *encoder);
const char *encoder_template_hash(const struct encoder *encoder);
/* The known chat template whose training variant conversations are rendered with (text/training_template.h), or
 * NULL. */
const char *encoder_training_name(const struct encoder *encoder);
struct tokenizer;
const struct tokenizer *encoder_tokenizer(const struct encoder *encoder);

struct encoded {
    const int32_t *ids;    /* [count]; in the scratch, until the next call */
    const uint8_t *trains; /* [count] 1: carries loss as a label; trains[0] is 0 */
    uint32_t count;
    uint32_t trained_count;
    uint32_t turn_count;    /* things that train: assistant turns, completions, texts; 0 for token_ids */
    uint32_t stopped_count; /* those of them whose last token ends the turn or the text */
};

/* At most 8 Mi tokens come out: a line has 8 MiB. An example may come out with nothing that trains. All kinds but
 * preferences. */
bool encode_example(const struct encoder *encoder, struct encoder_scratch *scratch, const struct example *example,
                    struct encoded *encoded, struct err *err);
/* A preference: the chosen sequence, then the rejected one. */
bool encode_pair(const struct encoder *encoder, struct encoder_scratch *scratch, const struct example *example,
                 struct encoded pair[2], struct err *err);
