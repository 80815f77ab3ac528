"""This server. It is short so that you can read it, and yours so that you can change it.

    python server.py            serves at the address in server.toml
    uvicorn server:app          the same app, with uvicorn's own options

The parts come from mlserve_runtime/ beside this file; 'mlserve emit --refresh .' renews that
folder and leaves this file alone.
"""

from pathlib import Path

from mlserve_runtime import reporting, routes, settings
from mlserve_runtime.server import Server
from mlserve_runtime.serving import serve
from starlette.applications import Starlette

HERE = Path(__file__).resolve().parent
reporting.install()  # its own errors are a sentence and a hint, not a traceback

# Reads server.toml, then MLSERVE_* from the environment. Nothing is loaded yet.
server = Server(settings.load(HERE / "server.toml"), HERE)

app = Starlette(
    routes=[
        *routes.inference(server),  # /v2/…: tensors, as the Open Inference Protocol has them
        *routes.prediction(server),  # POST /predict/MODEL: pictures, rows or text
        *routes.monitoring(server),  # /livez, /readyz, /metrics
        *routes.tensorflow(server),  # /v1/models/MODEL:predict, for clients of TensorFlow Serving
        *routes.torchserve(server),  # /predictions/MODEL and /models, for those of TorchServe
        *routes.admin(server),  # /admin/v1/…: versions and traffic, for operators
        *routes.pages(server),  # / is a page to try the models, /openapi.json describes them
        # Your own: Route("/hello", hello), with
        #     async def hello(request): return JSONResponse({"hello": "world"})
        # and Route from starlette.routing, JSONResponse from starlette.responses imported above
    ],
    middleware=routes.middleware(server),  # asks for API keys, where there are any
    exception_handlers=routes.exception_handlers,
    lifespan=server.lifespan,  # loads, warms up and proves every model; drains at the end
)
app.router.redirect_slashes = False  # /v2/ is not /v2, and is told so

if __name__ == "__main__":
    serve(app, server)  # until Ctrl-C or SIGTERM, which let the work in flight end
