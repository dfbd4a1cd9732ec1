"""What tables are written in: rules, transforms, fields, and the parts that several share."""
