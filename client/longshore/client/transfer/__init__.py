"""This package has uploads, submissions and watches, over as many connections as each takes."""
