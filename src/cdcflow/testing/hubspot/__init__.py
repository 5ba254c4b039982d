"""A HubSpot account behind a real HTTP server, as far as a sink meets it. See `server` for what it answers.

with HubSpot() as hubspot:
    hubspot.account.add_property("contacts", Property("customer_number", unique=True))
    ...
    assert hubspot.account.find("contacts", "customer_number", "42").properties["firstname"] == "Ada"
"""

from cdcflow.testing.hubspot.account import Account, CrmObject, ObjectType, Property
from cdcflow.testing.hubspot.limits import Limits
from cdcflow.testing.hubspot.server import HubSpot

__all__ = ["Account", "CrmObject", "HubSpot", "Limits", "ObjectType", "Property"]
