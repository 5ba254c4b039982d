"""A Salesforce org behind a real HTTP server, as far as a sink meets it. See `server` and `bulk`.

with Salesforce() as salesforce:
    salesforce.org.add_field("Account", Field("Number__c", external_id=True))
    ...
    assert salesforce.org.find("Account", "Number__c", "42").values["Name"] == "Ada Ltd"
"""

from cdcflow.testing.salesforce.org import Field, Org, SObject
from cdcflow.testing.salesforce.server import Salesforce

__all__ = ["Field", "Org", "SObject", "Salesforce"]
