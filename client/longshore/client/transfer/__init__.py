"""What goes over the wire: uploads, submissions and watches, over as many connections as each takes."""
