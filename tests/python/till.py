"""An HTTP service on Flask, whose operator wrote an OpenAPI 3.0 document for it
by hand: till.yaml."""

import sys

from flask import Flask, jsonify, request

app = Flask(__name__)


@app.get("/v1/items")
def items():
    wanted = {key: value for key, value in request.args.items(multi=True)}
    return jsonify({"items": [{"name": "tea", "price": 3, "note": None}], "asked": wanted})


@app.post("/v1/items")
def sell():
    form = request.form.to_dict(flat=False)
    return jsonify({"sold": form})


@app.get("/v1/items/<name>")
def item(name):
    if request.headers.get("X-Till-Key") is None:
        return jsonify({"reason": "locked"}), 403
    return jsonify({"name": name, "price": 0, "note": None})


if __name__ == "__main__":
    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", int(sys.argv[1]), app, threaded=True)
    print("serving", flush=True)
    server.serve_forever()
