"""The language of tables: rules, transforms, fields, and the parts that several share."""
