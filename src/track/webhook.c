/* How a job ended, told to an endpoint of its project: OpenAI's event, signed as Standard Webhooks 1.0 says.
 *
 * The signature is the HMAC-SHA256 of "webhook-id.webhook-timestamp.body" under what the secret holds in base64; while
 * a secret that was replaced still counts there are two of them. The id stays the same however often the event is sent;
 * the timestamp is that of the try. Any answer of 200 to 299 is a success, 410 says that nobody will ever listen. */
#include "base/hash.h"
#include "os/clock.h"
#include "os/secret.h"
#include "track/sending.h"

#include <inttypes.h>
#include <string.h>

#define SECRET_PREFIX "whsec_"

static void write_event(struct sending *s, struct sending_body *body)
{
    sending_body_begin(body);
    json_put_text(&body->w, "id", sending_text(s, "config", "event"));
    json_put_text(&body->w, "object", "event");
    json_put_integer(&body->w, "created_at", sending_integer(s, "job", "finished_ms") / 1000);
    json_put_text(&body->w, "type", sending_text(s, "config", "type"));
    json_write_key(&body->w, "data");
    json_write_begin_object(&body->w);
    json_put_text(&body->w, "id", sending_text(s, "job", "id"));
    json_write_end_object(&body->w);
}

/* One more "v1,<base64>", apart by a space; NULL: there is no such secret. */
static bool sign(struct strbuf *signatures, const char *secret, struct str signed_text, struct err *err)
{
    struct str text = str_of(secret);
    struct strbuf key = {0};
    uint8_t digest[32];
    bool ok = true;

    if (!secret)
        return true;
    if (str_starts(text, STR(SECRET_PREFIX)))
        text = str_slice(text, strlen(SECRET_PREFIX), text.len);
    strbuf_reserve(&key, text.len);
    if (!base64_decode(text, &key))
        ok = err_set(err, ERR_INTERNAL, "a signing secret cannot be read");
    if (ok) {
        hmac_sha256(strbuf_view(&key), signed_text, digest);
        strbuf_add_text(signatures, signatures->len ? " v1," : "v1,");
        base64_encode(digest, sizeof digest, signatures);
    }
    memory_erase(key.at, key.cap);
    strbuf_deinit(&key);
    return ok;
}

static bool judge(struct sending *s, int status, struct err *err)
{
    if (status >= 200 && status < 300)
        return true;
    return err_set(err, status == 410 ? ERR_INPUT : ERR_IO, "%s answered %d", s->place.origin,
                   status);
}

static bool post(struct sending *s, struct str body, struct err *err)
{
    const char *id = sending_text(s, "config", "message");
    const char *timestamp = arena_printf(s->arena, "%" PRId64, clock_unix());
    struct str signed_text = str_of(arena_printf(s->arena, "%s.%s.%.*s", id, timestamp, STR_ARG(body)));
    struct strbuf signatures = {0};
    int status = 0;
    bool ok = sign(&signatures, sending_text(s, "secrets", "signing_secret"), signed_text, err) &&
              sign(&signatures, sending_text(s, "secrets", "old_signing_secret"), signed_text, err);
    const struct http_form_field headers[] = {
        {"webhook-id", id}, {"webhook-timestamp", timestamp}, {"webhook-signature", signatures.at}};

    ok = ok && sending_post_to(s, headers, sizeof headers / sizeof *headers, body, &status, err);
    if (ok)
        ok = sending_tell(s, 0, str_of(arena_printf(s->arena, "{\"status\":%d}", status)), err) &&
             judge(s, status, err);
    strbuf_deinit(&signatures);
    return ok;
}

bool webhook_send(struct sending *s, struct err *err)
{
    struct sending_body body = {0};
    bool ok;

    write_event(s, &body);
    ok = sending_connect(s, json_string_or(json_get(json_get(s->document, "webhook"), "url"), STR_NONE), err) &&
         post(s, sending_body_end(&body), err);
    strbuf_deinit(&body.text);
    return ok;
}
