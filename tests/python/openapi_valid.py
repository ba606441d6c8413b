"""Says whether a file is a valid OpenAPI 3.1 document."""

import json
import sys

from openapi_spec_validator import OpenAPIV31SpecValidator

with open(sys.argv[1]) as file:
    document = json.load(file)
errors = list(OpenAPIV31SpecValidator(document).iter_errors())
for error in errors:
    print(error)
if not errors:
    print("valid OpenAPI 3.1")
sys.exit(bool(errors))
