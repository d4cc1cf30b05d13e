"""The documentation as a site: pages made from the code, links to files of the repository, navigation."""
